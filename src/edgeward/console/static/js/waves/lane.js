// One row of a bed page: a trace (or the leads of a row of twelve, one after another), its label, its scale, how good it is
// and, where nothing is drawn, why. The numbers beside it are the page's business.

import { t, has, unitText, duration } from "../texts.js";
import { Pen } from "./pen.js";
import { colour, weight } from "./kinds.js";
import { Axis, Fitted, hasAxis, ticks } from "./scale.js";
import { calibration } from "./sweep.js";

const SIGHT_MS = 8000;
const GAP_MS = 1500; // a hole this long is said
const SILENT_MS = 3500; // a source that has sent nothing for so long stands still, and says so
const HIDES = new Set(["off", "disconnected", "saturated"]); // states in which there is no signal

export class Lane {
  /** `names`: traces that the pen passes in turn; usually one. */
  constructor(template, { source, kind, names }) {
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.kind = kind;
    this.element.dataset.name = names.join(" ");
    this.element.style.setProperty("--wave", `var(${colour(kind)})`);
    this.element.style.flexGrow = String(weight(kind));
    Object.assign(this, { source, kind, names });
    this.find = (name) => this.element.querySelector(`[data-lane-${name}]`);
    this.numbers = this.find("numbers");
    this.pen = new Pen(this.find("canvas"));
    this.scale = kind === "ecg" ? null : hasAxis(kind) ? new Axis(kind) : new Fitted(kind);
    this.turn = source.turn;
    this.why = "";
    if (names.length > 1) this.columns();
    else this.find("name").textContent = this.title(names[0]);
  }

  get key() { return `${this.kind}/${this.names.join("/")}`; }

  title(name) { return this.kind === "ecg" ? name : has(`wave.kind.${this.kind}`) ? t(`wave.kind.${this.kind}`) : name; }

  columns() {
    const labels = this.names.map((name) => Object.assign(document.createElement("b"), { className: "lane-column", textContent: name }));
    this.find("columns").replaceChildren(...labels);
    this.find("label").hidden = true;
  }

  /** Take tracks as they are now; some may not have come yet. */
  assign(tracksOf) {
    this.pen.tracks = this.names.map((name) => tracksOf(name));
    if (this.source.turn !== this.turn) { this.turn = this.source.turn; this.pen.clear(); }
  }

  /** `view`: mm, speed, gain, left. */
  size(view) {
    this.view = view;
    this.pen.resize();
    this.pen.set(view);
    this.height();
    this.find("label").style.left = `${view.left + 2}px`;
    const labels = [...this.find("columns").children];
    labels.forEach((label, i) => { label.style.left = `${view.left + (i * this.pen.span) / labels.length + 4}px`; });
    this.redraw();
  }

  /** Where values lie. */
  height() {
    const { pen } = this;
    const clip = (y) => Math.max(1, Math.min(pen.height - 1, y));
    if (this.kind === "ecg") {
      this.baseline ??= pen.height * 0.6;
      this.baseline = Math.min(pen.height * 0.85, Math.max(pen.height * 0.2, this.baseline));
      pen.y = (value) => clip(this.baseline - value * this.view.gain * this.view.mm);
      this.say("scale", t("wave.gain", { gain: this.view.gain }));
      return;
    }
    const range = this.scale.range;
    if (!range) return;
    const top = Math.min(14, pen.height * 0.14);
    const place = (value) => pen.height - 5 - ((value - range[0]) / (range[1] - range[0])) * (pen.height - 5 - top);
    pen.y = (value) => clip(place(value));
    if (this.scale instanceof Axis) {
      const unit = unitText(this.pen.tracks[0]?.unit ?? "");
      this.say("scale", unit);
      this.find("ticks").replaceChildren(...ticks(range).map((value) => {
        const line = document.createElement("i");
        line.style.top = `${place(value)}px`;
        line.append(Object.assign(document.createElement("span"), { textContent: String(Math.round(value)) }));
        return line;
      }));
    } else this.say("scale", t("wave.fitted"));
  }

  /** Move the line on which an ECG stands when some of it would not be seen, and say so if it is too high altogether. */
  settle(at) {
    const ranges = this.pen.tracks.map((track) => track?.range?.(at - SIGHT_MS, at)).filter((range) => range?.[2]);
    if (!ranges.length) return;
    const per = this.view.gain * this.view.mm;
    const [least, most] = [Math.min(...ranges.map((range) => range[0])) * per, Math.max(...ranges.map((range) => range[1])) * per];
    const { height } = this.pen;
    this.clipped = most - least > height;
    if (this.baseline - most >= 1 && this.baseline - least <= height - 1) return;
    const wanted = Math.min(height * 0.85, Math.max(height * 0.2, height / 2 + (most + least) / 2));
    if (Math.abs(wanted - this.baseline) < height * 0.05) return;
    this.baseline = wanted;
    this.height();
    this.redraw();
  }

  say(name, text) { const target = this.find(name); if (target.textContent !== text) target.textContent = text; }

  redraw() {
    const style = getComputedStyle(this.element);
    this.pen.ink = style.getPropertyValue(this.faded ? "--trace-faded" : colour(this.kind)).trim();
    this.pen.redraw();
    if (this.kind === "ecg") calibration(this.pen, this.baseline, this.view?.gain ?? 10, style.getPropertyValue("--calibration").trim());
  }

  /** Draw on to a moment of the source's clock. */
  advance(at) { if (this.kind === "ecg" || this.scale.range) this.pen.advance(at); }

  /** Look, twice a second: the scale, how good the signal is, what stands in its way. */
  look(at, now) {
    const { pen, source } = this;
    if (this.kind !== "ecg" && pen.tracks[0] && this.scale.look(pen.tracks[0].range(at - SIGHT_MS, at), now)) { this.height(); this.redraw(); }
    if (this.kind === "ecg" && this.view) this.settle(at);
    const states = pen.tracks.map((track) => track?.stateAt(at) ?? ["", null]);
    const silent = source.silence(now);
    const [state, quality] = states.length === 1 ? states[0] : [states.every(([one]) => HIDES.has(one)) ? states[0][0] : "", null];
    let why = "";
    if (silent > SILENT_MS) why = Number.isFinite(silent) ? t("wave.silent", { age: duration(silent) }) : t("wave.waiting");
    else if (HIDES.has(state)) why = this.kind === "ecg" && state === "off" ? t("bed.lead_off") : t(`wave.state.${state}`);
    else if (!pen.tracks.some(Boolean)) why = t("wave.waiting");
    else {
      const last = Math.max(...pen.tracks.map((track) => track?.lastBefore(at) ?? -Infinity));
      if (at - last > GAP_MS) why = Number.isFinite(last) ? t("wave.gap", { age: duration(at - last) }) : t("wave.waiting");
    }
    const faded = silent > SILENT_MS;
    if (faded !== this.faded) { this.faded = faded; this.redraw(); }
    this.element.classList.toggle("faded", Boolean(why));
    if (why !== this.why) {
      this.why = why;
      this.find("veil").hidden = !why;
      this.find("veil").textContent = why;
    }
    const note = why ? "" : state && has(`wave.state.${state}`) ? t(`wave.state.${state}`) : this.clipped ? t("wave.clipped") : "";
    this.say("note", note);
    const bars = quality === null || why ? 0 : Math.ceil(Math.max(0, Math.min(1, quality)) * 4);
    const mark = this.find("quality");
    mark.hidden = quality === null;
    if (mark.dataset.bars !== String(bars)) {
      mark.dataset.bars = String(bars);
      [...mark.children].forEach((bar, i) => bar.classList.toggle("on", i < bars));
    }
    const label = t("wave.label", {
      name: this.names.map((name) => this.title(name)).join(", "), scale: this.find("scale").textContent, state: why || note || t("wave.shown"),
    });
    if (pen.canvas.getAttribute("aria-label") !== label) pen.canvas.setAttribute("aria-label", label);
  }
}
