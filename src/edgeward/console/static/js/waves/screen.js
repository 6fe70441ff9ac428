// The traces of one bed on its page: which there are, in what order, on one time base, with their numbers beside them.
// Responsible for lanes and what a viewer may choose; a lane draws itself (lane.js), a source keeps what came (source.js).

import { t } from "../texts.js";
import { Choices, GAINS, SPEEDS } from "./choices.js";
import { LEADS, byLead, isTwelve, rank, rowsOf } from "./kinds.js";
import { Lane } from "./lane.js";
import { Source } from "./source.js";
import { Derived, RULES } from "./track.js";

const LOOK_MS = 500;
const APART_MS = 400; // pens of two sources may stand so far apart
const KEEP_S = 70; // the widest sweep: 6.25 mm/s on a wall
const NOMINAL = 96 / 25.4; // CSS pixels per millimetre if the screen is what CSS takes it for
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Screen {
  constructor(tile, tools, { onBeat = () => {}, onLead = () => {} } = {}) {
    this.element = tile.querySelector("[data-screen]");
    this.tile = tile;
    this.template = document.getElementById("lane");
    this.tools = tools;
    this.onBeat = onBeat;
    this.onLead = onLead;
    this.choices = new Choices(tile.dataset.device);
    this.sources = new Map();
    this.lanes = [];
    this.faded = false;
    this.looked = this.drawn = 0;
    this.controls();
    new ResizeObserver(() => this.resize()).observe(this.element);
    still.addEventListener("change", () => this.redraw());
  }

  get begun() { return [...this.sources.values()].some((source) => source.begun); }

  // ---------------------------------------- what comes

  /** The sources that the bed has now, the one that its rhythm is read from first. */
  expect(ids) {
    for (const id of [...this.sources.keys()]) if (!ids.includes(id)) { this.sources.delete(id); this.stale = true; }
    for (const id of ids) {
      if (this.sources.has(id)) continue;
      const source = new Source({ keepS: KEEP_S, onBeat: () => { if (source === this.leading()) this.onBeat(); }, onTracks: () => { this.stale = true; } });
      this.sources.set(id, source);
    }
    this.ids = ids;
  }

  take(frame, now) {
    const source = this.sources.get(frame.source);
    if (!source) return;
    source.take(frame, now);
    if (this.stale) this.arrange();
  }

  clear() { for (const source of this.sources.values()) source.clear(); this.stale = true; this.arrange(); }

  ordered() { return (this.ids ?? []).map((id) => this.sources.get(id)).filter(Boolean); }
  leading() { return this.ordered().find((source) => source.lead) ?? this.ordered()[0]; }

  // ---------------------------------------- lanes

  leads() {
    const source = this.leading();
    return source ? source.offers.filter(([, kind]) => kind === "ecg").map(([name]) => name).sort(byLead) : [];
  }

  columns() { return this.element.clientWidth < 620 ? 2 : 4; }

  wanted() {
    const found = [];
    const leading = this.leading();
    const offered = this.leads();
    const twelve = this.choices.twelve && isTwelve(offered);
    if (leading && offered.length) {
      const rows = twelve ? rowsOf(this.columns()) : this.choices.leads(offered, leading.lead).map((name) => [name]);
      for (const names of rows) found.push({ source: leading, kind: "ecg", names });
    }
    if (!twelve) {
      const others = this.ordered().flatMap((source) => source.offers.filter(([, kind]) => kind !== "ecg").map(([name, kind]) => ({ source, kind, names: [name] })));
      found.push(...others.sort((a, b) => rank(a.kind) - rank(b.kind)));
    }
    return found;
  }

  arrange() {
    this.stale = false;
    const wanted = this.wanted();
    const keyOf = ({ kind, names }) => `${kind}/${names.join("/")}`;
    const same = wanted.length === this.lanes.length && wanted.every((one, i) => keyOf(one) === this.lanes[i].key && one.source === this.lanes[i].source);
    if (!same) {
      this.spare();
      this.lanes = wanted.map((one) => this.lanes.find((lane) => lane.key === keyOf(one) && lane.source === one.source) ?? new Lane(this.template, one));
      this.element.replaceChildren(...this.lanes.map((lane) => lane.element));
      this.tile.style.setProperty("--lanes", String(Math.max(1, this.lanes.reduce((sum, lane) => sum + Number(lane.element.style.flexGrow), 0))));
      this.tile.classList.toggle("twelve", this.lanes.some((lane) => lane.names.length > 1));
      this.house();
    }
    for (const lane of this.lanes) lane.assign((name) => this.track(lane.source, name));
    if (!same) this.resize();
    this.show();
  }

  track(source, name) {
    const track = source.tracks.get(name);
    if (track || !(name in RULES)) return track;
    const [one, two] = [source.tracks.get("I"), source.tracks.get("II")];
    return one && two ? new Derived(name, one, two, RULES[name]) : undefined;
  }

  /** Numbers stand beside the first lane of their kind; those without one, and all of a 12-lead view, stand below. */
  house() {
    const beside = this.lanes.filter((lane) => lane.names.length === 1 && !this.tile.classList.contains("twelve"));
    for (const number of this.tile.querySelectorAll("[data-of]")) {
      const kinds = number.dataset.of.split(" ");
      const lane = beside.find((one) => kinds.includes(one.kind));
      (lane?.numbers ?? this.tile.querySelector("[data-more]")).append(number);
    }
  }

  spare() { for (const number of this.tile.querySelectorAll("[data-of]")) this.tile.querySelector("[data-more]").append(number); }

  // ---------------------------------------- size and time

  /** One scale for all lanes. A screen that somebody has measured keeps its millimetre; others are read from farther away. */
  view() {
    const width = this.lanes[0]?.find("canvas").getBoundingClientRect().width ?? 0;
    const low = Math.min(...this.lanes.map((lane) => lane.element.clientHeight));
    const twelve = this.lanes.some((lane) => lane.names.length > 1);
    const kept = Number(localStorage.getItem("px_per_mm")) || 0;
    const left = Math.min(46, Math.max(30, width * 0.06));
    let mm = kept;
    if (twelve) mm = (width - left) / (this.columns() === 4 ? 250 : 125); // ten seconds, or five, of 25 mm/s across
    else if (!mm) mm = Math.max(1.6, Math.min(Math.max(NOMINAL, width / 300), (width - left) / 95, Math.max(2.4, low / 15)));
    const speed = twelve ? 25 : this.choices.speed;
    const mark = 200 * ((speed * mm) / 1000) + 2 * mm + 8; // the calibration stands before the trace
    return { mm, speed, gain: this.choices.gain, left: Math.max(left, Math.min(mark, width * 0.16)) };
  }

  resize() {
    if (!this.lanes.length) return;
    if (this.lanes.some((lane) => lane.names.length > 1) && rowsOf(this.columns()).length !== this.lanes.length) { this.arrange(); return; }
    const view = this.view();
    for (const lane of this.lanes) lane.size(view);
    this.drawn = 0;
  }

  redraw() { for (const lane of this.lanes) lane.redraw(); }

  frame(now) {
    if (this.stale) this.arrange();
    const looking = now - this.looked >= LOOK_MS;
    if (looking) this.looked = now;
    const drawing = !still.matches || now - this.drawn >= 1000; // without motion: a second at a time
    if (drawing) this.drawn = now;
    const first = this.leading();
    const here = first?.begun ? first.position(now) : null;
    for (const source of this.sources.values()) {
      if (!source.begun) { for (const lane of this.lanes) if (looking && lane.source === source) lane.look(0, now); continue; }
      const at = source === first ? here : source.position(now);
      for (const lane of this.lanes) {
        if (lane.source !== source) continue;
        if (source !== first && here !== null && Math.abs(here - at - lane.pen.phase) > APART_MS) { lane.pen.phase = here - at; lane.pen.clear(); }
        if (looking) lane.look(at, now);
        if (drawing) lane.advance(at);
      }
    }
  }

  // ---------------------------------------- what may be chosen

  controls() {
    const find = (name) => this.tools.querySelector(`[data-${name}]`);
    const fill = (select, values, chosen, text) => select.replaceChildren(...values.map((value) => new Option(text(value), String(value), false, value === chosen)));
    fill(find("speed"), SPEEDS, this.choices.speed, (n) => `${n} mm/s`);
    fill(find("gain"), GAINS, this.choices.gain, (n) => `${n} mm/mV`);
    for (const name of ["speed", "gain"]) find(name).addEventListener("change", () => { this.choices[name] = Number(find(name).value); this.choices.keep(); this.resize(); });
    find("twelve").addEventListener("click", () => this.twelve());
    this.find = find;
  }

  twelve() {
    if (!isTwelve(this.leads())) return;
    this.choices.twelve = !this.choices.twelve;
    this.choices.keep();
    this.arrange();
  }

  /** The next of the choices, by key. */
  step(name, values) {
    this.choices[name] = values[(values.indexOf(this.choices[name]) + 1) % values.length];
    this.find(name).value = String(this.choices[name]);
    this.choices.keep();
    this.resize();
  }

  /** The next lead alone. */
  nextLead() {
    const offered = this.leads();
    if (offered.length < 2 || this.lanes.some((lane) => lane.names.length > 1)) return;
    const shown = this.choices.leads(offered, this.leading().lead);
    this.choices.only(offered[(offered.indexOf(shown.at(-1)) + 1) % offered.length]);
    this.arrange();
  }

  key(pressed) {
    if (pressed === "l") this.nextLead();
    else if (pressed === "s") this.step("speed", SPEEDS);
    else if (pressed === "g") this.step("gain", GAINS);
    else if (pressed === "t") this.twelve();
    else return false;
    return true;
  }

  show() {
    const offered = this.leads();
    const twelve = this.choices.twelve && isTwelve(offered);
    const shown = offered.length ? this.choices.leads(offered, this.leading().lead) : [];
    const key = JSON.stringify([offered, shown, twelve]);
    if (key === this.shown) return;
    this.shown = key;
    const box = this.find("leads");
    const held = document.activeElement?.dataset.lead;
    box.closest("[data-lead-box]").hidden = offered.length < 2;
    box.replaceChildren(...offered.map((name) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "button button-quiet", textContent: name, disabled: twelve });
      button.dataset.lead = name;
      button.setAttribute("aria-pressed", String(shown.includes(name)));
      button.setAttribute("aria-label", t("wave.lead", { name }));
      button.addEventListener("click", () => { this.choices.toggle(name, this.choices.leads(this.leads(), this.leading().lead)); this.arrange(); });
      return button;
    }));
    if (held) box.querySelector(`[data-lead="${CSS.escape(held)}"]`)?.focus();
    this.find("twelve").hidden = !isTwelve(offered);
    this.find("twelve").setAttribute("aria-pressed", String(twelve));
    this.find("speed").disabled = twelve;
    this.onLead(shown.join(" ") || LEADS[1]);
  }
}
