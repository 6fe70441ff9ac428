// The viewer of the image page: one or two panes, the tools, and the keys. The entry point.

import { Pane } from "./pane.js";
import { Coupling } from "./depth.js";
import { listen } from "./pointer.js";
import { toast } from "../main.js";
import { ready, t } from "../texts.js";

const PAN_STEP = 40;
const TONE_STEP = 8;
const ZOOM_STEP = 1.25;

class Viewer {
  constructor(root) {
    this.root = root;
    this.panes = [];
    this.template = document.getElementById("pane-template");
    this.shared = { tool: "window", loupe: false, layers: { contour: true, box: false, axes: false } };
    this.linked = true;
    this.coupling = new Coupling();
    const data = JSON.parse(root.dataset.view);
    if (data.verification === "reject") this.shared.layers.contour = false;
    this.active = this.#add(data);
    for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => { this.act(button.dataset.do); });
    for (const button of document.querySelectorAll("[data-compare]")) button.addEventListener("click", () => this.compare(button.dataset.compare));
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("fullscreenchange", () => this.#show());
    const beside = new URLSearchParams(location.search).get("with");
    if (beside) this.compare(beside);
    this.#show();
  }

  #add(data) {
    const element = this.template.content.firstElementChild.cloneNode(true);
    this.root.querySelector("[data-panes]").append(element);
    const pane = new Pane(element, data, this.shared);
    listen(pane, this.shared, (one) => this.#activate(one));
    element.addEventListener("focusin", () => this.#activate(pane));
    for (const button of element.querySelectorAll("[data-do]")) button.addEventListener("click", () => { this.#activate(pane); this.act(button.dataset.do); });
    pane.addEventListener("moved", () => this.#follow(pane));
    pane.addEventListener("stepped", ({ detail }) => this.#together(pane, detail));
    this.panes.push(pane);
    return pane;
  }

  /** Coupled panes go through their series together. */
  #together(pane, by) {
    if (!this.linked) return;
    for (const other of this.panes) {
      if (other === pane || other.frames < 2) continue;
      const frame = this.coupling.counterpart(pane, other, by);
      if (frame !== null && frame !== other.frame) other.go(frame);
    }
  }

  #activate(pane) {
    if (this.active === pane) return;
    this.active = pane;
    this.#show();
  }

  /** The other pane shows the same part of its image at the same zoom, as far as it was fitted. */
  #follow(pane) {
    if (!this.linked || this.following || this.panes.length < 2) return;
    this.following = true;
    for (const other of this.panes) {
      if (other === pane) continue;
      const { scale, x, y } = pane.place;
      if (!pane.view) other.move(null);
      else other.move({ scale: (scale / pane.fitScale) * other.fitScale, x: ((x + 0.5) / pane.columns) * other.columns - 0.5, y: ((y + 0.5) / pane.rows) * other.rows - 0.5 });
    }
    this.following = false;
  }

  async compare(itemId) {
    const old = this.panes[1];
    this.coupling.reset();
    if (old) {
      this.panes.pop();
      old.cine.stop();
      old.root.remove();
      this.active = this.panes[0];
    }
    const open = itemId && old?.data.id !== itemId ? itemId : "";
    if (open) {
      const answer = await fetch(`/api/items/${encodeURIComponent(open)}/viewer?beside=${encodeURIComponent(this.panes[0].data.id)}`, { cache: "no-store" }).catch(() => null);
      if (!answer?.ok) { toast(t("viewer.compare_failed")); this.#show(); return; }
      const data = await answer.json();
      this.#add(data);
    }
    const address = new URL(location.href);
    if (open) address.searchParams.set("with", open);
    else address.searchParams.delete("with");
    history.replaceState(null, "", address);
    this.#show();
  }

  #layer(name) {
    this.shared.layers[name] = !this.shared.layers[name];
    for (const pane of this.panes) { pane.off.clear(); pane.update(pane.data); }
  }

  #tool(name) {
    this.shared.tool = this.shared.tool === name && name !== "window" ? "window" : name;
    for (const pane of this.panes) pane.measurements.cursor = null;
  }

  act(name) {
    const pane = this.active;
    const deeds = {
      window: () => this.#tool("window"), pan: () => this.#tool("pan"), distance: () => this.#tool("distance"), ellipse: () => this.#tool("ellipse"),
      in: () => pane.zoom(ZOOM_STEP), out: () => pane.zoom(1 / ZOOM_STEP), fit: () => pane.move(null), full: () => pane.full(),
      contour: () => this.#layer("contour"), box: () => this.#layer("box"), axes: () => this.#layer("axes"),
      invert: () => pane.invert(), reset: () => pane.reset(), loupe: () => { this.shared.loupe = !this.shared.loupe; },
      remove: () => pane.measurements.remove(), selectNext: () => pane.measurements.next(pane.frame),
      brighter: () => pane.shiftTone(TONE_STEP, 0), darker: () => pane.shiftTone(-TONE_STEP, 0),
      harder: () => pane.shiftTone(0, -2 * TONE_STEP), softer: () => pane.shiftTone(0, 2 * TONE_STEP),
      play: () => pane.cine.toggle(), next: () => pane.step(1), previous: () => pane.step(-1), leapOn: () => pane.step(10), leapBack: () => pane.step(-10),
      first: () => { pane.cine.stop(); pane.go(0); }, last: () => { pane.cine.stop(); pane.go(pane.frames - 1); }, best: () => { pane.cine.stop(); pane.go(pane.best); },
      nextMark: () => { pane.cine.stop(); pane.marked(1); }, previousMark: () => { pane.cine.stop(); pane.marked(-1); },
      faster: () => pane.cine.faster(1), slower: () => pane.cine.faster(-1),
      link: () => { this.linked = !this.linked; this.coupling.reset(); if (this.linked) this.#follow(pane); }, other: () => this.#other(),
      // The whole page goes full screen, not the viewer alone: alarms and a lost link stay in sight above it.
      screen: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen?.().catch(() => null)),
      help: () => this.#help(), beside: () => this.#beside(),
    };
    deeds[name]?.();
    for (const one of this.panes) one.draw();
    this.#show();
  }

  #other() {
    if (this.panes.length < 2) return;
    this.active = this.panes[(this.panes.indexOf(this.active) + 1) % this.panes.length];
    this.active.stage.focus();
  }

  /** Put the first other image of the patient beside this one, then the next, then none. */
  #beside() {
    const offered = [...document.querySelectorAll("[data-compare]")].map((button) => button.dataset.compare);
    if (!offered.length) { toast(t("viewer.no_others")); return; }
    const now = this.panes[1]?.data.id;
    const next = now ? offered[offered.indexOf(now) + 1] : offered[0];
    this.compare(next ?? "");
  }

  #help() {
    const dialog = document.getElementById("viewer-help");
    // Not modal: a modal one would lay itself over the alarms in the header.
    if (dialog.open) { dialog.close(); this.active.stage.focus({ preventScroll: true }); } else dialog.show();
  }

  #show() {
    const { shared } = this;
    const on = {
      window: shared.tool === "window", pan: shared.tool === "pan", distance: shared.tool === "distance", ellipse: shared.tool === "ellipse",
      contour: shared.layers.contour, box: shared.layers.box, axes: shared.layers.axes, invert: this.active.inverted, loupe: shared.loupe,
      link: this.linked && this.panes.length > 1, screen: document.fullscreenElement !== null,
    };
    for (const [name, pressed] of Object.entries(on)) {
      for (const button of this.root.querySelectorAll(`.viewer-tools [data-do=${name}]`)) button.setAttribute("aria-pressed", String(pressed));
    }
    for (const button of this.root.querySelectorAll("[data-two]")) button.hidden = this.panes.length < 2;
    this.root.dataset.tool = shared.tool;
    this.root.dataset.panes = String(this.panes.length);
    for (const pane of this.panes) pane.root.classList.toggle("pane-active", pane === this.active && this.panes.length > 1);
    for (const button of document.querySelectorAll("[data-compare]")) button.setAttribute("aria-pressed", String(button.dataset.compare === this.panes[1]?.data.id));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const dialog = document.getElementById("viewer-help");
    if (dialog.open && event.key === "Escape") { this.#help(); return; }
    if (dialog.open && event.key !== "?") return;
    const target = event.target;
    if (target.closest("input:not([type=range]):not([type=radio]), textarea, select, [contenteditable]")) return;
    if (this.#cross(event)) { event.preventDefault(); return; }
    const pressable = target.closest("button, a, summary, input");
    if ((event.key === " " || event.key === "Enter") && pressable) return; // it does what has the focus
    if (target.closest("input") && event.key.startsWith("Arrow")) return;
    const name = this.#meaning(event);
    if (!name) return;
    event.preventDefault();
    if (name.startsWith("pan:")) {
      const [dx, dy] = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      this.active.pan(dx * PAN_STEP, dy * PAN_STEP);
    } else if (name.startsWith("lesion:")) this.active.toggleLesion(Number(name.slice(7)) - 1);
    else this.act(name);
  }

  /** Measuring with the keys: Enter sets the cross down, arrows move it, Escape takes it away. */
  #cross(event) {
    const { tool } = this.shared;
    const pane = this.active;
    const marks = pane.measurements;
    if (tool !== "distance" && tool !== "ellipse") return false;
    if (event.key === "Enter" && !event.shiftKey && (event.target === pane.stage || event.target === document.body)) {
      const { x, y } = pane.place;
      marks.press(tool, pane.frame, [Math.round(x), Math.round(y)]);
    } else if (event.key === "Escape") {
      if (marks.cursor) marks.cursor = null;
      else this.act("window");
    } else if (marks.cursor && event.key.startsWith("Arrow")) {
      const step = event.shiftKey ? 10 : 1;
      const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      marks.step(dx * step, dy * step);
    } else return false;
    pane.draw();
    return true;
  }

  #meaning({ key, code, shiftKey }) {
    const digit = /^Digit([1-9])$/.exec(code)?.[1];
    if (shiftKey && digit) return `lesion:${digit}`;
    const loop = this.active.frames > 1;
    if (key.startsWith("Arrow")) {
      if (shiftKey) return "pan:";
      if (key === "ArrowUp") return "brighter";
      if (key === "ArrowDown") return "darker";
      if (!loop) return "pan:";
      return key === "ArrowLeft" ? "previous" : "next";
    }
    if (!loop && key.startsWith("Page")) return undefined; // the page scrolls
    return KEYS[key.length === 1 ? key.toLowerCase() : key];
  }
}

const KEYS = {
  "[": "previous", "]": "next", PageUp: "leapBack", PageDown: "leapOn", Home: "first", End: "last", b: "best", ",": "previousMark", ".": "nextMark", "<": "slower", ">": "faster", " ": "play",
  "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full", w: "harder", e: "softer", i: "invert", r: "reset", c: "contour", g: "box", x: "axes",
  m: "distance", o: "ellipse", h: "pan", t: "selectNext", Delete: "remove", Backspace: "remove", l: "loupe", s: "beside", y: "link", a: "other",
  f: "screen", "?": "help",
};

const root = document.getElementById("viewer");
if (root) {
  ready.then(() => {
    const viewer = new Viewer(root);
    document.addEventListener("show-own", () => { const [own] = viewer.panes; own.cine.stop(); own.go(own.best); });
    document.addEventListener("page-refreshed", ({ detail: page }) => {
      const fresh = page.getElementById("viewer")?.dataset.view;
      if (fresh && fresh !== root.dataset.view) { root.dataset.view = fresh; viewer.panes[0].update(JSON.parse(fresh)); }
    });
  });
}
