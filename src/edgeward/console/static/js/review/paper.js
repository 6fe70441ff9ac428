// Draws recorded channels on ECG paper: 1 mm and 5 mm squares, true to scale in the millimetres it is given. Responsible
// for pixels only; what is shown, and where the marks stand, is passed in.

import { unitText } from "../texts.js";
import { axisFor, hasAxis, ticks } from "../waves/scale.js";
import { range, valueAt } from "./calipers.js";

const OTHER_MM = 20; // height of a channel that is no ECG: its own range is stretched to this

export class Lane {
  /** One channel: `mm` CSS pixels per millimetre. */
  constructor(canvas, channel) {
    this.canvas = canvas;
    this.channel = channel;
    this.context = canvas.getContext("2d");
  }

  /** Height in millimetres that this channel needs at a gain: what it reaches, between 20 and 60. */
  static height(channel, gain) {
    if (!channel.ecg) return OTHER_MM + 10;
    const [least, most] = range(channel.values);
    return Math.max(25, Math.min(70, Math.ceil(((Math.min(most, 4) - Math.max(least, -4)) * gain + 12) / 5) * 5));
  }

  size(width, heightMm, mm, ratio = Math.min(3, devicePixelRatio || 1)) {
    this.width = width;
    this.mm = mm;
    this.height = heightMm * mm;
    this.canvas.width = Math.floor(width * ratio);
    this.canvas.height = Math.floor(this.height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  /** What a picture of it needs: `from` (ms at the left edge), speed (mm/s), gain (mm/mV). */
  place(view, gain) {
    this.view = view;
    this.perMs = (view.speed * this.mm) / 1000;
    const seen = range(this.channel.values);
    // A pressure stands on an axis of round numbers, as on the screen of the bed.
    const [least, most] = this.axis = hasAxis(this.channel.kind) ? axisFor(this.channel.kind, ...seen) : seen;
    if (this.channel.ecg) {
      this.perUnit = gain * this.mm;
      // The middle of what it reaches stands in the middle, on a line of the grid.
      const middle = (Math.max(least, -4) + Math.min(most, 4)) / 2;
      this.zero = Math.round((this.height / 2 + middle * this.perUnit) / (5 * this.mm)) * 5 * this.mm;
    } else {
      this.perUnit = (OTHER_MM * this.mm) / Math.max(1e-9, most - least);
      this.zero = this.height - 5 * this.mm + least * this.perUnit;
    }
  }

  x(time) { return (time - this.view.from) * this.perMs; }
  time(x) { return this.view.from + x / this.perMs; }
  y(value) { return this.zero - value * this.perUnit; }
  value(y) { return (this.zero - y) / this.perUnit; }

  draw(colours, { events = [], marks = null, march = false, active = false } = {}) {
    const { context, width, height, mm } = this;
    context.fillStyle = colours.paper;
    context.fillRect(0, 0, width, height);
    this.grid(colours);
    for (const event of events) this.event(event, colours);
    if (marks) this.calipers(marks, march, active, colours);
    this.trace(colours);
    context.fillStyle = colours.ink;
    context.font = `600 ${Math.max(12, 3.2 * mm)}px sans-serif`;
    context.fillText(this.channel.name, 4, Math.max(13, 3.6 * mm));
    if (this.channel.ecg) this.calibration(colours);
    else {
      const wide = context.measureText(this.channel.name).width;
      context.font = `${Math.max(11, 2.6 * mm)}px sans-serif`;
      context.fillText(unitText(this.channel.unit), 12 + wide, Math.max(13, 3.6 * mm));
      if (hasAxis(this.channel.kind)) for (const value of ticks(this.axis)) context.fillText(String(Math.round(value)), 4, this.y(value) - 2 + (value === this.axis[1] ? mm * 3.4 : 0));
    }
  }

  grid(colours) {
    const { context, width, height, mm } = this;
    // The grid is fixed to time, so that it moves with the strip as paper would.
    const shift = -((this.view.from * this.perMs) % (5 * mm));
    for (const [step, colour, line] of [[mm, colours.fine, 0.5], [5 * mm, colours.coarse, 1]]) {
      if (step < 2.2) continue;
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      for (let x = shift % step; x <= width; x += step) { context.moveTo(x, 0); context.lineTo(x, height); }
      for (let y = 0; y <= height; y += step) { context.moveTo(0, y); context.lineTo(width, y); }
      context.stroke();
    }
  }

  calibration(colours) {
    const { context, mm } = this;
    const top = this.y(1);
    context.strokeStyle = colours.ink;
    context.lineWidth = 1.25;
    context.beginPath();
    context.moveTo(2, this.zero);
    context.lineTo(2 + mm, this.zero);
    context.lineTo(2 + mm, top);
    context.lineTo(2 + mm + this.perMs * 200, top);
    context.lineTo(2 + mm + this.perMs * 200, this.zero);
    context.lineTo(2 + 2 * mm + this.perMs * 200, this.zero);
    context.stroke();
  }

  trace(colours) {
    const { context, width, channel } = this;
    const first = Math.max(0, Math.floor(((this.time(0) - channel.start) / 1000) * channel.rate));
    const last = Math.min(channel.values.length - 1, Math.ceil(((this.time(width) - channel.start) / 1000) * channel.rate));
    context.strokeStyle = colours.traces?.[channel.kind] ?? colours.trace;
    context.lineWidth = Math.max(1.2, this.mm * 0.3);
    context.lineJoin = "round";
    context.beginPath();
    let pen = false;
    for (let i = first; i <= last; i += 1) {
      const value = channel.values[i];
      if (Number.isNaN(value)) { pen = false; continue; }
      const x = this.x(channel.start + (i / channel.rate) * 1000);
      const y = Math.max(-2, Math.min(this.height + 2, this.y(value)));
      if (pen) context.lineTo(x, y); else context.moveTo(x, y);
      pen = true;
    }
    context.stroke();
  }

  event({ time, text, dashed }, colours) {
    const x = this.x(time);
    if (x < -50 || x > this.width + 50) return;
    const { context } = this;
    context.strokeStyle = colours.event;
    context.lineWidth = 2;
    context.setLineDash(dashed ? [7, 5] : []);
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x, this.height);
    context.stroke();
    context.setLineDash([]);
    context.fillStyle = colours.event;
    context.font = "600 12px sans-serif";
    context.fillText(text, x + 5, this.height - 7);
  }

  calipers(marks, march, active, colours) {
    const { context } = this;
    const [a, b] = [this.x(marks.a.time), this.x(marks.b.time)];
    context.fillStyle = colours.span;
    context.fillRect(Math.min(a, b), 0, Math.abs(b - a), this.height);
    context.strokeStyle = colours.mark;
    context.fillStyle = colours.mark;
    const line = (x, strong) => {
      context.lineWidth = strong ? 2.5 : 1.25;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, this.height);
      context.stroke();
    };
    if (march && Math.abs(b - a) > 6) {
      context.setLineDash([2, 4]);
      for (let x = b + (b - a), n = 0; x > 0 && x < this.width && n < 200; x += b - a, n += 1) line(x, false);
      for (let x = a - (b - a), n = 0; x > 0 && x < this.width && n < 200; x -= b - a, n += 1) line(x, false);
      context.setLineDash([]);
    }
    for (const [name, mark, x] of [["A", marks.a, a], ["B", marks.b, b]]) {
      line(x, marks.chosen === name);
      context.font = "700 13px sans-serif";
      context.fillText(name, x + 4, 14);
      if (!active) continue;
      const level = mark.level ?? valueAt(this.channel, mark.time);
      if (level === null) continue;
      const y = this.y(level);
      context.beginPath();
      context.moveTo(x - 12, y);
      context.lineTo(x + 12, y);
      context.stroke();
    }
  }
}
