// One ECG trace on a canvas in the sweep style of a bedside monitor: the pen runs from left to right at a fixed speed and
// an erase bar runs before it. Fixed scale: 10 mm/mV, 25 mm/s, with a calibration mark of 1 mV and 200 ms.

import { Playout } from "./playout.js";

const KEEP_S = 30; // kept for redrawing after a change of size or colours
const ERASE_MM = 5;
const HEADER = 16;

/** Read a binary frame (layout in console/live.py). */
export function readFrame(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < HEADER || view.getUint8(0) !== 1) return null;
  const [deviceLength, leadLength, beatCount] = [view.getUint8(1), view.getUint8(2), view.getUint8(3)];
  const rate = view.getFloat32(4, true);
  const start = view.getFloat64(8, true);
  const beats = [];
  let at = HEADER;
  for (let i = 0; i < beatCount; i += 1, at += 8) beats.push(view.getFloat64(at, true));
  const text = new TextDecoder();
  const device = text.decode(new Uint8Array(buffer, at, deviceLength));
  const lead = text.decode(new Uint8Array(buffer, at + deviceLength, leadLength));
  at += deviceLength + leadLength;
  at += at % 2;
  return { device, lead, rate, start, beats, samples: new Int16Array(buffer, at, (buffer.byteLength - at) >> 1) };
}

export class Sweep {
  /** `scale`: CSS pixels per millimetre, chosen by the page for its distance of reading. */
  constructor(canvas, { onBeat = () => {}, onLead = () => {} } = {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.playout = new Playout();
    this.onBeat = onBeat;
    this.onLead = onLead;
    this.samples = new Float32Array(0);
    this.drawn = -1;
    this.beats = [];
    this.lead = "";
    this.mm = 3;
    this.visible = true;
    this.faded = false;
    this.resize();
  }

  colours() {
    const style = getComputedStyle(this.canvas);
    const read = (name) => style.getPropertyValue(name).trim();
    this.ink = read(this.faded ? "--trace-faded" : "--trace");
    this.paper = read("--trace-bg");
    this.mark = read("--calibration");
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.width = Math.max(1, box.width);
    this.height = Math.max(1, box.height);
    this.ratio = Math.min(3, window.devicePixelRatio || 1);
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.mm = Math.max(1.6, Math.min(this.height > 220 ? 6.5 : 4.6, this.height / 34)); // 34 mm high: about -1.3 to +2.1 mV
    this.mm = Math.max(1.4, Math.min(this.mm, this.width / (25 * 3.8 + 7))); // and nearly four seconds wide
    this.baseline = this.height * 0.61;
    this.left = 6 + 7 * this.mm; // the calibration mark stands before the trace
    this.span = Math.max(20, this.width - this.left);
    this.redraw();
  }

  /** Take a stretch of samples. */
  take(frame, now) {
    const { start, samples, rate } = frame;
    if (!(rate > 0) || !samples.length) return;
    if (!this.playout.take(start, samples.length, rate, now)) {
      this.samples = new Float32Array(Math.ceil(KEEP_S * rate)).fill(NaN);
      this.drawn = -1;
      this.filled = start;
      this.beats = [];
    }
    const size = this.samples.length;
    for (let gap = Math.max(this.filled, start - size); gap < start; gap += 1) this.samples[gap % size] = NaN;
    for (let i = 0; i < samples.length; i += 1) this.samples[(start + i) % size] = samples[i] / 1000;
    this.filled = Math.max(this.filled, start + samples.length);
    for (const beat of frame.beats) if (beat > (this.lastBeat ?? -1)) { this.beats.push(beat); this.lastBeat = beat; }
    if (frame.lead !== this.lead) { this.lead = frame.lead; this.onLead(frame.lead); }
  }

  clear() {
    this.playout.reset();
    this.samples = new Float32Array(0);
    this.lastBeat = -1;
    this.redraw();
  }

  x(index) { return this.left + (((index / this.playout.rate) * 25 * this.mm) % this.span); }

  y(millivolts) { return Math.max(1, Math.min(this.height - 1, this.baseline - millivolts * 10 * this.mm)); }

  /** Paint everything anew: the paper, the calibration mark, and what the sweep shows at this moment. */
  redraw() {
    this.colours();
    const { context } = this;
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.lineJoin = "round";
    context.lineCap = "round";
    context.fillStyle = this.paper;
    context.fillRect(0, 0, this.width, this.height);
    const top = this.baseline - 10 * this.mm;
    context.strokeStyle = this.mark;
    context.lineWidth = 1.25;
    context.beginPath();
    context.moveTo(4, this.baseline);
    context.lineTo(4 + this.mm, this.baseline);
    context.lineTo(4 + this.mm, top);
    context.lineTo(4 + 6 * this.mm, top);
    context.lineTo(4 + 6 * this.mm, this.baseline);
    context.lineTo(4 + 7 * this.mm, this.baseline);
    context.stroke();
    if (this.playout.rate && this.drawn >= 0) {
      const back = Math.floor(((this.span - ERASE_MM * this.mm) / (25 * this.mm)) * this.playout.rate);
      const to = this.drawn;
      this.drawn = Math.max(0, to - back, this.filled - this.samples.length + 1);
      this.segment(Math.floor(to));
    }
  }

  /** Draw on to the present moment. Called once a frame. */
  frame(now) {
    if (!this.playout.rate || !this.samples.length) return;
    const position = Math.floor(this.playout.position(now));
    while (this.beats.length && this.beats[0] <= position) {
      const beat = this.beats.shift();
      if (position - beat < this.playout.rate) this.onBeat();
    }
    if (!this.visible) { this.drawn = position; return; }
    const back = (this.span / (25 * this.mm)) * this.playout.rate;
    if (this.drawn < 0 || position - this.drawn > back) this.drawn = Math.max(0, position - Math.floor(back * 0.98));
    if (position > this.drawn) this.segment(position);
    else if (position < this.drawn - this.playout.rate) { this.drawn = position; }
  }

  segment(to) {
    const { context, samples } = this;
    const size = samples.length;
    const step = (25 * this.mm) / this.playout.rate;
    const erase = ERASE_MM * this.mm;
    context.strokeStyle = this.ink;
    context.lineWidth = Math.max(1.6, Math.min(3.2, this.mm / 2)); // what is large is read from afar
    let from = this.drawn;
    while (from < to) {
      const x0 = this.x(from);
      const room = Math.max(1, Math.ceil((this.left + this.span - x0) / step));
      const end = Math.min(to, from + room);
      const width = (end - from) * step;
      context.fillStyle = this.paper;
      // Whole pixels: the edge of a half-covered one would leave a faint stripe.
      const wipe = Math.ceil(x0 + 0.5);
      const wiped = Math.min(Math.ceil(x0 + width + erase), Math.ceil(this.left + this.span));
      context.fillRect(wipe, 0, wiped - wipe, this.height);
      const over = x0 + width + erase - this.left - this.span;
      if (over > 0) context.fillRect(Math.floor(this.left - 1), 0, Math.ceil(Math.min(erase, over)) + 1, this.height);
      context.beginPath();
      let pen = false;
      for (let i = from; i <= end; i += 1) {
        const value = samples[i % size];
        if (Number.isNaN(value) || i >= this.filled) { pen = false; continue; }
        const x = x0 + (i - from) * step;
        if (x > this.left + this.span + 0.5) break;
        if (pen) context.lineTo(x, this.y(value));
        else context.moveTo(x, this.y(value));
        pen = true;
      }
      context.stroke();
      from = end;
    }
    this.drawn = to;
  }
}
