// The traces of one bed on a wall: its leading ECG lead, and one more wave where the wall shows two.
// Fixed scale: 10 mm/mV, 25 mm/s, with a calibration mark of 1 mV and 200 ms.

import { Pen } from "./pen.js";
import { Axis, Fitted, hasAxis } from "./scale.js";
import { Source } from "./source.js";

const SPEED = 25;
const GAIN = 10;
const LOOK_MS = 500;
const SIGHT_MS = 6000;

/** Draw the mark of 1 mV and 200 ms before a trace. */
export function calibration(pen, baseline, gain, colour) {
  const { context, mm, perMs } = pen;
  const [x, top, wide] = [4, baseline - gain * mm, 200 * perMs];
  if (top < 2 || x + wide + 2 * mm > pen.left) return;
  context.strokeStyle = colour;
  context.lineWidth = 1.25;
  context.beginPath();
  context.moveTo(x, baseline);
  context.lineTo(x + mm, baseline);
  context.lineTo(x + mm, top);
  context.lineTo(x + mm + wide, top);
  context.lineTo(x + mm + wide, baseline);
  context.lineTo(x + 2 * mm + wide, baseline);
  context.stroke();
}

export class Sweep {
  constructor(canvas, { onBeat = () => {}, onLead = () => {}, second = null } = {}) {
    this.pen = new Pen(canvas);
    this.second = second ? new Pen(second) : null;
    this.secondKind = "";
    this.onLead = onLead;
    this.source = new Source({ onBeat, onTracks: () => this.assign() });
    this.turn = this.source.turn;
    this.visible = true;
    this.faded = false;
    this.looked = 0;
    this.resize();
  }

  get begun() { return this.source.begun; }
  get mm() { return this.pen.mm; }

  assign() {
    this.pen.tracks = [this.source.tracks.get(this.source.lead)];
    if (this.source.lead !== this.lead) { this.lead = this.source.lead; this.onLead(this.lead); }
    if (!this.second) return;
    const track = [...this.source.tracks.values()].find((one) => one.kind === this.secondKind);
    if (track !== this.second.tracks[0]) {
      const before = this.second.canvas.hidden;
      this.second.tracks = track ? [track] : [];
      this.second.canvas.hidden = !track;
      if (before === Boolean(track)) this.resize();
      this.scale = track ? hasAxis(track.kind) ? new Axis(track.kind) : new Fitted(track.kind) : null;
      this.second.clear();
    }
  }

  /** Show one more wave of a kind, or none. */
  show(kind) {
    if (kind === this.secondKind) return;
    this.secondKind = kind;
    this.assign();
  }

  colours() {
    const style = getComputedStyle(this.pen.canvas);
    const read = (name) => style.getPropertyValue(name).trim();
    this.pen.ink = read(this.faded ? "--trace-faded" : "--wave-ecg");
    if (this.second && this.secondKind) this.second.ink = read(this.faded ? "--trace-faded" : `--wave-${this.secondKind}`);
    this.mark = read("--calibration");
  }

  resize() {
    const { pen, second } = this;
    pen.resize();
    let mm = Math.max(1.6, Math.min(pen.height > 220 ? 6.5 : 4.6, pen.height / 34)); // 34 mm high: about -1.3 to +2.1 mV
    mm = Math.max(1.4, Math.min(mm, pen.width / (SPEED * 3.8 + 7))); // and nearly four seconds wide
    const view = { mm, speed: SPEED, left: 6 + 7 * mm };
    pen.set(view);
    this.baseline = pen.height * 0.61;
    pen.y = (millivolts) => Math.max(1, Math.min(pen.height - 1, this.baseline - millivolts * GAIN * mm));
    if (second && !second.canvas.hidden) { second.resize(); second.set(view); }
    this.redraw();
  }

  take(frame, now) {
    this.source.take(frame, now);
    if (this.source.turn !== this.turn) { this.turn = this.source.turn; this.assign(); this.clear(); }
  }

  clear() {
    if (this.source.turn === this.turn) this.source.clear();
    this.turn = this.source.turn;
    this.pen.drawn = this.pen.last = null;
    if (this.second) this.second.clear();
    this.redraw();
  }

  /** Paint everything anew: the calibration mark, and what the sweep shows at this moment. */
  redraw() {
    this.colours();
    this.pen.redraw();
    calibration(this.pen, this.baseline, GAIN, this.mark);
    if (this.second && !this.second.canvas.hidden) this.second.redraw();
  }

  /** Draw on to the present moment. Called once a frame. */
  frame(now) {
    if (!this.begun) return;
    const at = this.source.position(now);
    const second = this.second && !this.second.canvas.hidden ? this.second : null;
    if (!this.visible) { this.pen.drawn = at; if (second) second.drawn = at; return; }
    this.pen.advance(at);
    if (!second?.tracks.length) return;
    if (now - this.looked > LOOK_MS) {
      this.looked = now;
      if (this.scale.look(second.tracks[0].range(at - SIGHT_MS, at), now)) {
        const [least, most] = this.scale.range;
        second.y = (value) => second.height * (0.94 - (0.88 * (value - least)) / (most - least));
        second.redraw();
      }
    }
    if (this.scale.range) second.advance(at);
  }
}
