// Where the images of a stack lie in the room, learned from those that were seen, and which image of another stack lies at
// the same depth. Pure.

const PARALLEL = 0.95; // cosine of the angle between two planes that are still gone through together
const STEP_MM = 1e-3;

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

export class Depth {
  constructor() { this.known = new Map(); }

  /** `plane`: normal and distance along it in mm, or null where an image does not say. */
  learn(index, plane, reference) {
    if (!Array.isArray(plane) || plane.length !== 4 || !plane.every(Number.isFinite)) return;
    this.known.set(index, plane);
    this.reference = reference || "";
  }

  /** The stack as a line: `at` tells the depth of an image in mm, `index` the image at a depth. Null: not known yet. */
  get line() {
    const places = [...this.known.keys()];
    if (places.length < 2) return null;
    const [first, last] = [Math.min(...places), Math.max(...places)];
    const [near, far] = [this.known.get(first), this.known.get(last)];
    const step = (far[3] - near[3]) / (last - first);
    if (dot(near, far) < PARALLEL || Math.abs(step) < STEP_MM) return null;
    return { normal: near.slice(0, 3), reference: this.reference, at: (index) => near[3] + (index - first) * step, index: (depth) => first + (depth - near[3]) / step };
  }
}

/** Two stacks that are gone through together. In one frame of reference images at the same place stand side by side; else both
    go by as many millimetres from where they stood when they were coupled. Without positions, by as many images. */
export class Coupling {
  constructor() { this.anchor = null; }

  /** Forget where both stood: they were coupled anew. */
  reset() { this.anchor = null; }

  /** The image that `other` is to show after `pane` went `by` images; null if it stays. */
  counterpart(pane, other, by) {
    const [from, to] = [pane.depth.line, other.depth.line];
    if (!from || !to) return other.frame + by;
    const turn = dot(from.normal, to.normal);
    if (Math.abs(turn) < PARALLEL) return null; // an axial and a sagittal series have no image in common
    const sign = Math.sign(turn);
    if (from.reference && from.reference === to.reference) return Math.round(to.index(sign * from.at(pane.frame)));
    this.anchor ??= new Map([[pane, from.at(pane.frame - by)], [other, to.at(other.frame)]]);
    return Math.round(to.index(this.anchor.get(other) + sign * (from.at(pane.frame) - this.anchor.get(pane))));
  }
}
