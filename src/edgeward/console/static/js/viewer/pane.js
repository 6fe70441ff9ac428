// One image on the screen: which frame, under which window, at which zoom, and what lies over it.
// Responsible for the picture and its state. Keys and buttons are in viewer.js, the pointer in pointer.js.

import { Frames, NoPicture, preview } from "./frames.js";
import { Cine } from "./cine.js";
import { Measurements } from "./measure.js";
import { chips, corner, head, tell } from "./captions.js";
import { Depth } from "./depth.js";
import { scaleBetween } from "./geometry.js";
import { drawLesions, element } from "./overlay.js";
import { stackOf } from "./stack.js";
import { WHOLE, apply, same, table } from "./tone.js";
import { reasonText, t } from "../texts.js";

const SETTLE_MS = 140; // a window that is still being dragged is not asked of the server
const NARROW = 64; // below this, 8-bit pixels from a JPEG show its blocks: the server renders the window itself
const MAX_STILL = 4096;
const LOSSLESS = 2e6; // pixels
const LOUPE = { radius: 90, factor: 2.5 };

export class Pane extends EventTarget {
  constructor(root, data, shared) {
    super();
    this.root = root;
    this.shared = shared; // { layers, tool }: the same for all panes
    this.stage = root.querySelector("[data-stage]");
    this.canvas = root.querySelector("[data-canvas]");
    this.overlay = root.querySelector("[data-overlay]");
    this.lesions = element("g");
    this.mine = element("g");
    this.space = element("g"); // source pixels
    this.space.append(this.lesions, this.mine);
    this.labels = element("g"); // screen pixels
    this.overlay.append(this.space, this.labels);
    this.measurements = new Measurements(this.mine);
    this.toned = document.createElement("canvas");
    this.loupeAt = null;
    // A click on it is no gesture on the picture below.
    root.querySelector("[data-another]").addEventListener("pointerdown", (event) => event.stopPropagation());
    this.open(data);
    new ResizeObserver(() => this.#resized()).observe(this.stage);
    document.addEventListener("theme", () => this.draw());
  }

  /** Show another item. */
  open(data) {
    this.data = data;
    this.store = new Frames(data.id);
    this.picture = null;
    this.frame = Math.min(data.frame, Math.max(0, data.frames - 1));
    this.frames = data.frames;
    this.frameTime = 0;
    this.spacing = data.spacing;
    this.spacingSource = data.spacingSource;
    this.pixelAspect = data.pixelAspect ?? 1;
    this.scales = []; // of single regions, where there are several
    this.depth = new Depth();
    this.window = null; // null: the object's own
    this.own = WHOLE;
    this.base = null; // the window under which frames are asked for
    this.deep = false; // more than 8 bits: other windows come from the server
    this.inverted = false;
    this.settled = null;
    this.fallback = "";
    this.failed = new Map(); // frame -> why it cannot be had
    this.view = null; // null: fitted
    this.off = new Set(); // lesions switched off on this frame
    this.measurements.list = [];
    this.cine ??= new Cine(this.root.querySelector("[data-cine]"), this);
    this.cine.stop();
    this.stack = null;
    this.cine.lay();
    head(this);
    this.#gather(data);
    return this.go(this.frame);
  }

  /** The other images of the series come behind and before this one. */
  async #gather(data) {
    const stack = await stackOf(data, () => { this.cine.lay(); head(this); this.draw(); });
    if (!stack || this.data.id !== data.id || this.frames > 1) return;
    this.stack = stack;
    this.store.place = (index) => stack.place(index);
    this.measurements.renumber(this.frame, stack.home);
    this.frame = stack.home;
    this.frames = stack.size;
    this.depth = new Depth(); // what was seen so far was under its old number
    this.root.dataset.frame = String(this.frame);
    this.root.dataset.stack = "";
    this.cine.lay();
    head(this);
    this.go(this.frame); // the picture may still be on its way, asked for under its old number
  }

  /** A person goes on by so many images; a pane beside this one may follow. */
  step(by) {
    const before = this.frame;
    this.cine.stop();
    this.go(this.frame + by);
    if (this.frame !== before) this.dispatchEvent(new CustomEvent("stepped", { detail: this.frame - before }));
  }

  /** The same item, known better: analysed, or decided on. */
  update(data) {
    const before = this.data;
    this.data = data;
    this.stack?.known.set(data.id, data);
    if (!before.preview && data.preview) { this.spacing ??= data.spacing; this.spacingSource ||= data.spacingSource; this.go(this.stack ? this.frame : data.frame); }
    this.cine.lay();
    head(this);
    this.draw();
  }

  get rows() { return this.picture?.facts.rows || this.data.rows || 1; }
  get columns() { return this.picture?.facts.columns || this.data.columns || 1; }
  /** What is known of the image on the screen; nothing yet of a neighbour in the series that was only scrolled past. */
  get shown() { return this.stack ? this.stack.data(this.frame) : this.data; }
  get another() { return this.stack !== null && this.frame !== this.stack.home; }
  get best() { return this.stack ? this.stack.home : this.data.frame; }
  get founds() { return this.stack ? this.stack.found : this.data.found; }
  get found() { return this.founds.find((one) => one.frame === this.frame); }
  get colour() { return this.picture ? this.picture.applied === null : true; }

  // ------------------------------------ frames

  #wish(full) {
    // Lossless where it is cheap: a strong window makes the blocks of a JPEG visible.
    const wish = { form: (this.frames === 1 || this.stack) && this.data.rows && this.rows * this.columns <= LOSSLESS ? "png" : "jpeg" };
    const asked = this.settled ?? this.base;
    if (asked) { wish.center = asked.center; wish.width = asked.width; }
    const most = full ? MAX_STILL : this.#cineWidth();
    if (this.columns > most) wish.max = most;
    return wish;
  }

  /** So many columns that a whole loop fits into the memory that frames may take. */
  #cineWidth() {
    const share = Math.sqrt((0.8 * this.store.limit) / (this.columns * this.rows * 4 * Math.max(1, this.frames)));
    return share >= 1 ? Math.min(2048, this.columns) : Math.max(256, 64 * Math.floor((share * this.columns) / 64));
  }

  /** Go to a frame, in full resolution. */
  async go(frame) {
    const wanted = Math.min(Math.max(0, frame), Math.max(0, this.frames - 1));
    if (wanted !== this.frame) this.off.clear();
    this.frame = wanted;
    this.cine.tell();
    tell(this);
    if (this.fallback) { this.draw(); return; }
    this.stack?.rest(wanted);
    if (this.stack) head(this);
    const quick = this.store.peek(wanted, this.#wish(false));
    if (quick) this.#take(quick); // small and at once, then in full
    this.root.dataset.loading = "";
    try {
      const picture = await this.store.get(wanted, this.#wish(true));
      if (this.frame === wanted && !this.cine.playing) this.#take(picture);
      if (this.stack && this.frame === wanted) for (const near of [1, -1, 2, -2, 3]) if (wanted + near >= 0 && wanted + near < this.frames) this.prefetch(wanted + near);
    } catch (error) {
      await this.#fail(error, wanted);
    } finally {
      if (this.frame === wanted) delete this.root.dataset.loading;
    }
  }

  /** Show a frame of a running loop if it is there. */
  showKept(frame) {
    if (this.failed.has(frame)) { this.cine.halt(); this.go(frame); return false; }
    const picture = this.store.peek(frame, this.#wish(false)) ?? this.store.peek(frame, this.#wish(true));
    if (!picture) return false;
    if (frame !== this.frame) this.off.clear();
    this.frame = frame;
    this.#take(picture);
    this.cine.tell();
    return true;
  }

  prefetch(frame) {
    const wish = this.#wish(false);
    if (this.store.has(frame, wish) || this.failed.has(frame)) return;
    // Told when the loop gets there, not now.
    this.store.get(frame, wish, false).then(({ facts }) => this.depth.learn(frame, facts.plane, facts.reference)).catch((error) => { this.failed.set(frame, error.message); });
  }

  #take(picture) {
    const first = this.picture === null;
    this.picture = picture;
    this.store.shown = picture.image;
    const { facts } = picture;
    if (this.#is(picture)) this.depth.learn(this.frame, facts.plane, facts.reference);
    this.frameTime = facts.frameTime || this.frameTime;
    // Of this very image: the one before it in a series may have had a spacing where this has none.
    this.spacing = facts.spacing;
    this.spacingSource = facts.spacingSource;
    this.scales = facts.scales ?? [];
    this.pixelAspect = facts.pixelAspect ?? this.pixelAspect;
    if (first) {
      if (!this.stack && facts.frames !== this.frames) { this.frames = facts.frames; this.cine.lay(); }
      this.own = picture.applied ?? WHOLE;
      const shallow = facts.center !== null && facts.lowest >= 0 && facts.highest <= 255 && facts.highest - facts.lowest >= NARROW;
      // Eight bits: fetched as they are, every window is then a matter of the browser alone.
      if (shallow && !same(picture.applied, WHOLE)) { this.base = WHOLE; this.go(this.frame); }
      this.deep = picture.applied !== null && !shallow;
    }
    if (this.stack && !this.settled && picture.applied) this.own = picture.applied; // each image names its own window
    this.root.dataset.frame = String(this.frame);
    this.raw = null;
    this.failed.delete(this.frame);
    if (!this.fallback) this.#note("");
    this.draw();
    tell(this);
    this.dispatchEvent(new Event("shown"));
  }

  async #fail(error, frame) {
    if (!(error instanceof NoPicture) && !(error instanceof TypeError)) throw error;
    if (this.picture) {
      this.failed.set(frame, error.message);
      if (frame !== this.frame) return;
      this.#note(t("viewer.frame_missing", { n: frame + 1, reason: reasonText(error.message) }));
      this.draw(); // nothing: another frame's picture must not pass for this one
      return;
    }
    const reason = error instanceof NoPicture ? error.message : "";
    try {
      if (!this.data.preview) throw new NoPicture("");
      const picture = await preview(this.data.id, this.data);
      this.fallback = t("viewer.fallback", { reason: reasonText(reason) || t("viewer.no_answer") });
      this.frame = this.data.frame;
      this.#take(picture);
      this.#note(this.fallback);
    } catch {
      this.#note(t("viewer.nothing", { reason: reasonText(reason) || t("viewer.no_answer") }));
      this.root.dataset.empty = "";
    }
  }

  #is(picture) {
    const { id, frame } = this.store.place(this.frame);
    return picture.id === id && picture.facts.frame === frame;
  }

  #note(text) {
    const note = this.root.querySelector("[data-note]");
    note.textContent = text;
    note.hidden = !text;
  }

  // ------------------------------------ window

  get wanted() { return this.window ?? this.own; }

  /** Set the window; null is the object's own. */
  tone(window) {
    this.window = window && { center: window.center, width: Math.max(1, window.width) };
    this.draw();
    clearTimeout(this.settling);
    const needed = !this.fallback && !this.colour && window && (this.deep || window.width < NARROW);
    this.settling = setTimeout(() => {
      const next = needed ? { center: Math.round(this.window.center * 100) / 100, width: Math.round(this.window.width * 100) / 100 } : null;
      if ((next === null && this.settled === null) || (next && this.settled && same(next, this.settled))) return;
      this.settled = next;
      this.go(this.frame);
    }, SETTLE_MS);
  }

  /** Move the window: `light` up is brighter, `width` up is less contrast; 256 of either is the whole window. */
  shiftTone(light, width) {
    const { center, width: now } = this.wanted;
    const range = this.picture ? Math.max(1, this.picture.facts.highest - this.picture.facts.lowest) : 256;
    const unit = Math.max(now, range / 16) / 256; // a narrow window moves in small steps
    // Where higher values are darker, brighter is the other way.
    const up = Boolean(this.picture?.facts.dark) === this.inverted ? -1 : 1;
    this.tone({ center: center + up * light * unit, width: Math.max(1, now + width * unit) });
  }

  invert() { this.inverted = !this.inverted; this.draw(); }

  reset() {
    this.view = null;
    this.inverted = false;
    this.tone(null);
    this.dispatchEvent(new Event("moved"));
  }

  // ------------------------------------ place

  #resized() {
    this.size = [this.stage.clientWidth, this.stage.clientHeight];
    this.draw();
  }

  /** How much taller than wide a pixel is. */
  get aspect() {
    const ratio = this.spacing ? this.spacing[0] / this.spacing[1] : this.pixelAspect;
    return ratio > 1 / 16 && ratio < 16 && Math.abs(ratio - 1) > 0.005 ? ratio : 1;
  }

  get fitScale() {
    const [width, height] = this.size ?? [1, 1];
    return Math.max(1e-3, Math.min(width / this.columns, height / (this.rows * this.aspect)));
  }

  /** Scale and the source point in the middle of the stage. */
  get place() { return this.view ?? { scale: this.fitScale, x: (this.columns - 1) / 2, y: (this.rows - 1) / 2 }; }

  move(view) {
    if (view) {
      const scale = Math.min(64, Math.max(this.fitScale / 8, view.scale));
      this.view = { scale, x: Math.min(this.columns, Math.max(-1, view.x)), y: Math.min(this.rows, Math.max(-1, view.y)) };
    } else this.view = null;
    this.draw();
    this.dispatchEvent(new Event("moved"));
  }

  /** Zoom by `factor` so that what lies under `at` (stage pixels) stays there. */
  zoom(factor, at = [this.size[0] / 2, this.size[1] / 2]) {
    const [x, y] = this.source(at);
    const { scale } = this.place;
    const next = Math.min(64, Math.max(this.fitScale / 8, scale * factor));
    this.move({ scale: next, x: x - (at[0] - this.size[0] / 2) / next, y: y - (at[1] - this.size[1] / 2) / (next * this.aspect) });
  }

  pan(dx, dy) {
    const { scale, x, y } = this.place;
    this.move({ scale, x: x - dx / scale, y: y - dy / (scale * this.aspect) });
  }

  full() { this.move({ ...this.place, scale: 1 / devicePixelRatio }); }

  /** Source coordinates of a point of the stage, and back. */
  source([left, top]) {
    const { scale, x, y } = this.place;
    return [x + (left - this.size[0] / 2) / scale, y + (top - this.size[1] / 2) / (scale * this.aspect)];
  }

  screen([px, py]) {
    const { scale, x, y } = this.place;
    return [(px - x) * scale + this.size[0] / 2, (py - y) * scale * this.aspect + this.size[1] / 2];
  }

  // ------------------------------------ drawing

  /** Draw at the next frame of the screen. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.#drawNow(); });
  }

  #surface() {
    const { image, applied, facts } = this.picture;
    const levels = table(applied ?? WHOLE, this.wanted, this.inverted, Boolean(facts.dark));
    if (!levels) return image;
    const { toned } = this;
    if (toned.width !== image.width || toned.height !== image.height) { toned.width = image.width; toned.height = image.height; this.raw = null; }
    const context = toned.getContext("2d", { willReadFrequently: true });
    if (!this.raw) {
      context.drawImage(image, 0, 0);
      this.raw = context.getImageData(0, 0, image.width, image.height);
      this.out = context.createImageData(image.width, image.height);
    }
    apply(levels, this.raw.data, this.out.data);
    context.putImageData(this.out, 0, 0);
    return toned;
  }

  #drawNow() {
    if (!this.size?.[0]) return;
    const density = Math.min(3, devicePixelRatio || 1);
    const [width, height] = this.size;
    const { canvas } = this;
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    const context = canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const { scale } = this.place;
    if (this.picture && !this.failed.has(this.frame)) {
      const surface = this.#surface();
      const [left, top] = this.screen([-0.5, -0.5]);
      context.imageSmoothingEnabled = scale * density < 4; // beyond that, pixels are shown as they are
      context.imageSmoothingQuality = "high";
      context.drawImage(surface, left, top, this.columns * scale, this.rows * scale * this.aspect);
      if (this.shared.loupe && this.loupeAt) this.#loupe(context, surface);
    }
    this.#drawOver();
  }

  #loupe(context, surface) {
    const [cx, cy] = this.loupeAt;
    const { scale } = this.place;
    const near = scale * LOUPE.factor;
    const [x, y] = this.source(this.loupeAt);
    context.save();
    context.beginPath();
    context.arc(cx, cy, LOUPE.radius, 0, 2 * Math.PI);
    context.fillStyle = "#000";
    context.fill();
    context.clip();
    context.drawImage(surface, cx - (x + 0.5) * near, cy - (y + 0.5) * near * this.aspect, this.columns * near, this.rows * near * this.aspect);
    context.restore();
    context.lineWidth = 2;
    context.strokeStyle = "#dfe6ec";
    context.stroke();
  }

  #drawOver() {
    const [width, height] = this.size;
    const { scale } = this.place;
    const [left, top] = this.screen([0, 0]);
    this.overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.space.setAttribute("transform", `translate(${left} ${top}) scale(${scale} ${scale * this.aspect})`);
    this.labels.replaceChildren();
    const label = (at, text, kind) => {
      const [x, y] = this.screen(at);
      const made = element("text", { x: Math.min(Math.max(4, x + 6), width - 8), y: Math.min(Math.max(14, y + 15), height - 6), class: kind }, text);
      this.labels.append(made);
      const over = made.getBBox().x + made.getBBox().width - (width - 4);
      if (over > 0) made.setAttribute("x", Math.max(4, Number(made.getAttribute("x")) - over));
    };
    // Until the frame itself is on the screen, nothing is drawn over the one before it.
    const here = this.picture && this.#is(this.picture) && !this.failed.has(this.frame);
    drawLesions(this.lesions, here ? this.found : null, this.shared.layers, this.off, this, label);
    this.measurements.draw(this.frame, (a, b) => scaleBetween(a, b, this), this.shared.tool, label);
    corner(this);
  }

  toggleLesion(index) {
    if (index >= (this.found?.lesions.length ?? 0)) return;
    if (!this.off.delete(index)) this.off.add(index);
    chips(this);
    this.draw();
  }

  marked(step) {
    const places = this.founds.map((found) => found.frame).sort((a, b) => a - b);
    const next = step > 0 ? places.find((place) => place > this.frame) : places.findLast((place) => place < this.frame);
    if (next !== undefined) this.go(next);
  }
}
