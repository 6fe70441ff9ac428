// The jitter buffer: when to show which sample. Pure: times are passed in, in milliseconds.
//
// Stretches of trace arrive in bursts (about once a second). Sample s is shown at s / rate + offset. For no gap, the
// offset must be at least arrival - first / rate of every stretch; so it follows the latest of them, rises quickly and
// falls slowly. Playing runs at most 4 % faster or slower than true speed to get there; more than that is a jump.

const MARGIN_MS = 120;
const WINDOW_MS = 20000;
const JUMP_MS = 1500;
const SLEW = 0.04;

export class Playout {
  constructor() { this.reset(); }

  reset() {
    this.rate = 0;
    this.head = 0; // index after the newest sample
    this.offset = null; // ms
    this.lateness = []; // [arrival, arrival - first / rate]
    this.at = null;
  }

  /** A stretch arrived: its first index, its length. Returns false if the stream began anew and the past is void. */
  take(first, length, rate, now) {
    let same = true;
    if (rate !== this.rate || first + length < this.head - 10 * rate || first > this.head + 30 * rate) {
      this.reset();
      this.rate = rate;
      same = false;
    }
    this.head = Math.max(this.head, first + length);
    this.lateness.push([now, now - (first / rate) * 1000]);
    while (this.lateness.length > 1 && now - this.lateness[0][0] > WINDOW_MS) this.lateness.shift();
    if (this.offset === null) this.offset = this.wanted() ;
    return same;
  }

  wanted() { return Math.max(...this.lateness.map((entry) => entry[1])) + MARGIN_MS; }

  /** Index (fractional) to be shown at `now`; never beyond what has arrived. */
  position(now) {
    if (this.offset === null) return 0;
    const passed = this.at === null ? 0 : Math.max(0, now - this.at);
    this.at = now;
    const error = this.wanted() - this.offset;
    if (Math.abs(error) > JUMP_MS) this.offset += error;
    else this.offset += Math.max(-SLEW * passed, Math.min(SLEW * passed, error));
    return Math.max(0, Math.min(this.head, ((now - this.offset) / 1000) * this.rate));
  }
}
