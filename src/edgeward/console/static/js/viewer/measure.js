// A person's own measurements: distances and ellipses, with the pointer or with the keys. Kept with the page, nowhere else.

import { ellipse, length, number } from "./geometry.js";
import { element, twice } from "./overlay.js";
import { t } from "../texts.js";

const GRAB_PX = { mouse: 9, touch: 22, pen: 14 };

export class Measurements {
  constructor(group) {
    this.group = group;
    this.list = []; // { kind, frame, a, b }
    this.selected = null;
    this.cursor = null; // of the keyboard: { at, from }
    this.moving = null;
  }

  on(frame) { return this.list.filter((one) => one.frame === frame); }

  /** Take hold of an end near `at`, or begin a new one. `pixel` is the size of a screen pixel in source pixels. */
  begin(kind, frame, at, pixel, pointer) {
    const reach = (GRAB_PX[pointer] ?? 9) * pixel;
    for (const one of this.on(frame).reverse()) {
      for (const end of ["a", "b"]) {
        if (Math.hypot(one[end][0] - at[0], one[end][1] - at[1]) <= reach) {
          this.selected = one;
          this.moving = { one, end };
          return true;
        }
      }
    }
    if (!kind) return false;
    const one = { kind, frame, a: at, b: at };
    this.list.push(one);
    this.selected = one;
    this.moving = { one, end: "b" };
    return true;
  }

  /** What was measured on one frame belongs to another number now. */
  renumber(from, to) { for (const one of this.list) if (one.frame === from) one.frame = to; }

  move(at) { if (this.moving) this.moving.one[this.moving.end] = at; }

  /** Let go; what is too small to have been meant is dropped. Return the measurement, if it stays. */
  finish(pixel) {
    const one = this.moving?.one;
    this.moving = null;
    if (!one) return null;
    if (Math.hypot(one.a[0] - one.b[0], one.a[1] - one.b[1]) < 3 * pixel) { this.remove(one); return null; }
    return one;
  }

  remove(one = this.selected) {
    if (!one) return false;
    this.list = this.list.filter((other) => other !== one);
    if (this.selected === one) this.selected = this.list.at(-1) ?? null;
    return true;
  }

  /** Select the next one on this frame. */
  next(frame) {
    const here = this.on(frame);
    if (here.length) this.selected = here[(here.indexOf(this.selected) + 1) % here.length];
  }

  /** Enter: set the cross down; the first time it only appears. Return a measurement when one is complete. */
  press(kind, frame, middle) {
    if (!this.cursor) { this.cursor = { at: middle, from: null }; return null; }
    if (!this.cursor.from) { this.cursor.from = this.cursor.at; return null; }
    const one = { kind, frame, a: this.cursor.from, b: this.cursor.at };
    this.cursor.from = null;
    if (one.a[0] === one.b[0] && one.a[1] === one.b[1]) return null;
    this.list.push(one);
    this.selected = one;
    return one;
  }

  step(dx, dy) { if (this.cursor) this.cursor.at = [this.cursor.at[0] + dx, this.cursor.at[1] + dy]; }

  text(one, scaleAt) {
    const scale = scaleAt(one.a, one.b);
    if (one.kind === "distance") return `${number(length(one.a, one.b, scale), scale.digits)} ${scale.unit}`;
    const { long, short, area } = ellipse(one.a, one.b, scale);
    return `${number(long, scale.digits)} × ${number(short, scale.digits)} ${scale.unit}  ${number(area, 0)} ${scale.unit}²`;
  }

  draw(frame, scaleAt, kind, label) {
    this.group.replaceChildren();
    for (const one of this.on(frame)) {
      const chosen = one === this.selected;
      const group = element("g", { class: `measurement${chosen ? " selected" : ""}`, role: "img", "aria-label": `${t(`viewer.${one.kind}`)} ${this.text(one, scaleAt)}` });
      group.append(...shape(one), ...dot(one.a), ...dot(one.b));
      this.group.append(group);
      label([Math.max(one.a[0], one.b[0]), one.a[0] > one.b[0] ? one.a[1] : one.b[1]], this.text(one, scaleAt), `measure-label${chosen ? " selected" : ""}`);
    }
    if (this.cursor) {
      const { at, from } = this.cursor;
      const group = element("g", { class: "measurement selected" });
      if (from) group.append(...shape({ kind, a: from, b: at }));
      group.append(...dot(at, "cross"));
      this.group.append(group);
      if (from) label(at, this.text({ kind, a: from, b: at }, scaleAt), "measure-label selected");
    }
  }
}

function shape({ kind, a, b }) {
  if (kind === "distance") return twice("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] });
  return twice("ellipse", { cx: (a[0] + b[0]) / 2, cy: (a[1] + b[1]) / 2, rx: Math.abs(a[0] - b[0]) / 2, ry: Math.abs(a[1] - b[1]) / 2 });
}

// A line of no length with round ends is a dot of the stroke's width, whatever the zoom.
const dot = ([x, y], kind = "end") => twice("line", { x1: x, y1: y, x2: x, y2: y }).map((line) => { line.classList.add(kind); return line; });
