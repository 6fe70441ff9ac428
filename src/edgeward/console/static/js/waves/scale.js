// How high a trace is drawn. An ECG has a gain; a pressure an axis in round numbers; what has no unit that a reader needs
// (pleth, breathing) is fitted, slowly, so that a failing pulse looks small. Pure: numbers in, numbers out.

const STEPS = { abp: 20, pap: 10, cvp: 5, icp: 10, co2: 20 };
const LEAST = { abp: 60, pap: 30, cvp: 20, icp: 20, co2: 40 }; // span of an axis
const WAIT_MS = 12_000; // a smaller axis is taken when a smaller one has been enough for so long
const SHRINK = 0.03; // of the fitted span, a second
const FORGET = 0.003; // of the largest span seen, a second
const FLOOR = 0.3; // of that: the fitted span never gets smaller, or noise would fill the lane
const ROOM = 1.15; // what is fitted anew has room to grow
const TOLERANCE = 0.1; // a span or a middle that is off by less is left as it is

export const hasAxis = (kind) => kind in STEPS;

/** The axis in round numbers that holds what lies between two values. */
export function axisFor(kind, least, most) {
  const step = STEPS[kind];
  const from = kind === "co2" ? 0 : Math.min(0, Math.floor(least / step) * step) || (kind === "abp" ? Math.max(0, Math.floor((least * 0.92) / step) * step) : 0);
  const to = Math.max(from + LEAST[kind], Math.ceil((most * 1.04 + 0.01) / step) * step);
  return [from, to];
}

/** Where the lines of an axis stand: its ends and its middle. */
export const ticks = ([from, to]) => [from, (from + to) / 2, to];

export class Axis {
  constructor(kind) { this.kind = kind; this.range = null; this.since = null; }

  /** Take what lay in sight lately; returns whether the axis changed. */
  look([least, most, count], now) {
    if (!count) return false;
    const fit = axisFor(this.kind, least, most);
    const same = this.range && fit[0] === this.range[0] && fit[1] === this.range[1];
    if (same) { this.since = null; return false; }
    const inside = this.range && fit[0] >= this.range[0] && fit[1] <= this.range[1];
    if (inside) {
      this.since ??= now;
      if (now - this.since < WAIT_MS) return false;
    }
    this.range = fit;
    this.since = null;
    return true;
  }
}

const LEAST_SPAN = { respiration: 0.5 }; // ohms: a breath is 0.2 to 2; without one the heart's own movement must not look like breaths

export class Fitted {
  constructor(kind) { this.least = LEAST_SPAN[kind] ?? 0; this.range = null; this.largest = 0; this.span = 0; this.middle = 0; this.at = null; }

  /** Take what lay in sight lately; returns whether the range changed. */
  look([least, most, count], now) {
    if (!count) return false;
    const passed = this.at === null ? 0 : Math.min(5, (now - this.at) / 1000);
    this.at = now;
    const span = Math.max(most - least, 1e-9);
    const centre = (least + most) / 2;
    this.largest = Math.max(span, this.largest * (1 - FORGET * passed));
    this.span = Math.max(span * ROOM, this.least, this.largest * FLOOR, this.span * (1 - SHRINK * passed));
    const outside = !this.range || least < this.range[0] || most > this.range[1];
    this.middle = outside ? centre : this.middle + (centre - this.middle) * Math.min(1, 0.3 * passed);
    if (!outside) {
      const [old, middle] = [this.range[1] - this.range[0], (this.range[0] + this.range[1]) / 2];
      if (Math.abs(this.span - old) < TOLERANCE * old && Math.abs(this.middle - middle) < TOLERANCE * old) return false;
    }
    this.range = [this.middle - this.span / 2, this.middle + this.span / 2];
    return true;
  }
}
