// Draws tracks on a canvas in the sweep style of a bedside monitor: the pen runs from left to right and an erase bar runs
// before it. Responsible for pixels and their place in time; what is drawn, and how high, is said by the page.

const ERASE_MM = 5;

export class Pen {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.tracks = []; // one, or one per column, that the pen passes in turn
    this.drawn = null; // ms
    this.last = null; // ms of the last point drawn
    this.phase = 0; // ms, so that the pens of several sources stand at one place
    this.set({ mm: 3, speed: 25, left: 20 });
    this.y = () => 0;
    this.ink = "#888";
    this.line = 0; // CSS pixels; 0: by the scale
  }

  /** `mm`: CSS pixels per millimetre; `speed`: mm/s; `left`: pixels before the trace begins. */
  set({ mm, speed, left }) { Object.assign(this, { mm, speed, left }); this.measure(); }

  measure() {
    this.span = Math.max(20, (this.width ?? 0) - this.left);
    this.perMs = (this.speed * this.mm) / 1000;
    this.period = this.span / this.perMs; // ms from edge to edge
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.width = Math.max(1, box.width);
    this.height = Math.max(1, box.height);
    this.ratio = Math.min(3, window.devicePixelRatio || 1);
    const [wide, high] = [Math.round(this.width * this.ratio), Math.round(this.height * this.ratio)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    this.measure();
  }

  x(ms) { return this.left + (((((ms + this.phase) % this.period) + this.period) % this.period) * this.perMs); }

  /** Forget what was drawn. */
  clear() {
    this.drawn = this.last = null;
    this.blank();
  }

  blank() {
    this.context.setTransform(this.ratio ?? 1, 0, 0, this.ratio ?? 1, 0, 0);
    this.context.clearRect(0, 0, this.width ?? 1, this.height ?? 1);
  }

  /** Draw anew what the sweep shows at this moment. */
  redraw() {
    this.blank();
    const to = this.drawn;
    if (to === null) return;
    this.last = null;
    this.drawn = to - this.period + (ERASE_MM * this.mm) / this.perMs;
    this.advance(to);
  }

  /** Draw on to a moment. */
  advance(to) {
    if (this.drawn === null || to - this.drawn > this.period * 0.98) this.drawn = to - this.period * 0.97;
    if (to < this.drawn - 1000) this.drawn = to;
    if (to <= this.drawn || !this.tracks.length) return;
    const part = this.period / this.tracks.length;
    let from = this.drawn;
    while (from < to - 1e-3) {
      const turn = Math.floor((from + this.phase) / part + 1e-9);
      const end = Math.min(to, (turn + 1) * part - this.phase);
      if (end <= from) break;
      this.piece(from, end, this.tracks[((turn % this.tracks.length) + this.tracks.length) % this.tracks.length]);
      from = end;
    }
    this.drawn = to;
  }

  piece(from, to, track) {
    const { context } = this;
    const right = this.left + this.span;
    const x0 = this.x(from + 1e-6);
    const x1 = x0 + (to - from) * this.perMs;
    const erase = ERASE_MM * this.mm;
    // Whole pixels: the edge of a half-covered one would leave a faint stripe.
    const wipe = Math.ceil(x0 + 0.5);
    context.clearRect(wipe, 0, Math.min(Math.ceil(x1 + erase), Math.ceil(right)) - wipe, this.height);
    const over = x1 + erase - right;
    // A round line's end reaches a little before its beginning: nothing of the turn before may stay there.
    const edge = Math.floor(this.left) - 2;
    if (over > 0) context.clearRect(edge, 0, Math.ceil(this.left + Math.min(erase, over)) - edge, this.height);
    if (!track) { this.last = null; return; }
    context.strokeStyle = this.ink;
    context.lineWidth = this.line || Math.max(1.5, Math.min(3.2, this.mm / 2.2)); // what is large is read from afar
    context.lineJoin = "round";
    context.lineCap = "round";
    context.beginPath();
    const place = (ms) => x0 + (ms - from) * this.perMs;
    let pen = false;
    // A slow track's next sample may have been missing when the pen passed: it is joined now.
    if (this.last !== null && this.last < from && from - this.last < 1.5 * track.step && x0 - this.left > (from - this.last) * this.perMs) {
      const value = track.valueAt(this.last);
      if (!Number.isNaN(value)) { context.moveTo(place(this.last), this.y(value)); pen = true; }
    }
    const point = (ms, value) => {
      if (Number.isNaN(value)) { pen = false; return; }
      if (pen) context.lineTo(place(ms), this.y(value)); else context.moveTo(place(ms), this.y(value));
      pen = true;
      this.last = ms;
    };
    const begin = track.valueAt(from);
    if (!Number.isNaN(begin)) point(from, begin);
    for (let i = track.index(from) + 1, last = track.index(to); i <= last; i += 1) point(track.ms(i), track.at(i));
    const end = track.valueAt(to);
    if (!Number.isNaN(end)) point(to, end);
    context.stroke();
  }
}
