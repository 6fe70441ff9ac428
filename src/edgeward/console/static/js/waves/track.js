// One trace as it came: values by time, holes where nothing came, and why. Pure: no canvas, no clock of its own.
// Times are milliseconds since the stream of its source began.

const MISSING = -32768;
const STATES = 40;

export class Track {
  constructor(wave, keepS) {
    this.name = wave.name;
    this.kind = wave.kind;
    this.unit = wave.kind === "ecg" ? "mV" : wave.unit;
    this.rate = wave.rate;
    this.origin = wave.start;
    this.step = 1000 / wave.rate;
    this.values = new Float32Array(Math.max(16, Math.ceil(keepS * wave.rate))).fill(NaN);
    this.filled = 0; // index after the newest sample
    this.states = []; // [from when, state, quality], oldest first
  }

  fits(wave) { return wave.rate === this.rate && wave.kind === this.kind && wave.start >= this.end - 1500; }

  get end() { return this.origin + this.filled * this.step; }

  take(wave) {
    const size = this.values.length;
    const first = Math.round((wave.start - this.origin) / this.step);
    const factor = this.kind === "ecg" ? 0.001 : 1;
    for (let hole = Math.max(this.filled, first - size); hole < first; hole += 1) this.values[hole % size] = NaN;
    for (let i = 0; i < wave.samples.length; i += 1) {
      const at = first + i;
      if (at < 0) continue;
      this.values[at % size] = wave.samples[i] === MISSING ? NaN : (wave.samples[i] * wave.gain + wave.offset) * factor;
    }
    this.filled = Math.max(this.filled, first + wave.samples.length);
    const last = this.states.at(-1);
    if (!last || last[1] !== wave.state || last[2] !== wave.quality) this.states.push([wave.start, wave.state, wave.quality]);
    if (this.states.length > STATES) this.states.shift();
  }

  /** Value of sample `i`; not a number where there is none. */
  at(i) { return i < 0 || i >= this.filled || i < this.filled - this.values.length ? NaN : this.values[i % this.values.length]; }

  index(ms) { return Math.floor((ms - this.origin) / this.step + 1e-6); }
  ms(i) { return this.origin + i * this.step; }

  /** Value at a moment, between its neighbours. */
  valueAt(ms) {
    const i = this.index(ms);
    const part = (ms - this.ms(i)) / this.step;
    return part < 1e-3 ? this.at(i) : this.at(i) + (this.at(i + 1) - this.at(i)) * part;
  }

  /** What its sensor said at a moment: [state, quality]. */
  stateAt(ms) {
    let found = this.states[0];
    for (const one of this.states) { if (one[0] > ms) break; found = one; }
    return found ? [found[1], found[2]] : ["", null];
  }

  /** When there was a value last, at or before a moment; -Infinity if there was none. */
  lastBefore(ms) {
    const oldest = Math.max(0, this.filled - this.values.length);
    for (let i = Math.min(this.index(ms), this.filled - 1); i >= oldest; i -= 1) if (!Number.isNaN(this.at(i))) return this.ms(i);
    return -Infinity;
  }

  /** Least and greatest value of a span of time, and how many there are. */
  range(from, to) {
    let [least, most, count] = [Infinity, -Infinity, 0];
    for (let i = Math.max(0, this.index(from)); i <= Math.min(this.filled - 1, this.index(to)); i += 1) {
      const value = this.at(i);
      if (Number.isNaN(value)) continue;
      if (value < least) least = value;
      if (value > most) most = value;
      count += 1;
    }
    return [least, most, count];
  }
}

/** A lead that follows from I and II (Einthoven 1913; Goldberger 1942), as if it had been sent. */
export class Derived {
  constructor(name, one, two, rule) { Object.assign(this, { name, kind: "ecg", unit: "mV", one, two, rule, derived: true }); }

  get rate() { return this.one.rate; }
  get step() { return this.one.step; }
  get filled() { return this.one.filled; }
  get end() { return Math.min(this.one.end, this.two.end); }
  at(i) { return this.rule(this.one.at(i), this.two.valueAt(this.one.ms(i))); }
  index(ms) { return this.one.index(ms); }
  ms(i) { return this.one.ms(i); }
  valueAt(ms) { return this.rule(this.one.valueAt(ms), this.two.valueAt(ms)); }
  stateAt(ms) { const [a, b] = [this.one.stateAt(ms), this.two.stateAt(ms)]; return a[0] ? a : b; }
  lastBefore(ms) { return Math.min(this.one.lastBefore(ms), this.two.lastBefore(ms)); }
}

export const RULES = {
  III: (i, ii) => ii - i, aVR: (i, ii) => -(i + ii) / 2, aVL: (i, ii) => i - ii / 2, aVF: (i, ii) => ii - i / 2,
};
