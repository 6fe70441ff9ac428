// Playing a cine loop: the clock, the slider and the marks of what was analysed. Not responsible for fetching or drawing.

import { t, word } from "../texts.js";

const SPEEDS = [0.1, 0.25, 0.5, 1, 1.5, 2, 4];
const DEFAULT_MS = 1000 / 15; // where the object does not say how fast it is
const AHEAD = 10; // frames fetched before they are due

export class Cine {
  constructor(root, pane) {
    this.root = root;
    this.pane = pane;
    this.playing = false;
    this.speed = SPEEDS.indexOf(1);
    this.slider = root.querySelector("[data-slider]");
    this.counter = root.querySelector("[data-counter]");
    this.marks = root.querySelector("[data-marks]");
    this.playButton = root.querySelector("[data-do=play]");
    this.rate = root.querySelector("[data-rate]");
    this.slider.addEventListener("input", () => { this.stop(); pane.go(Number(this.slider.value)); });
  }

  /** The number of frames or what is known of them changed. */
  lay() {
    const { frames, founds, best: home, stack } = this.pane;
    this.root.hidden = frames < 2;
    this.slider.max = String(Math.max(0, frames - 1));
    this.marks.replaceChildren(...founds.filter((found) => found.frame < frames).map((found) => {
      const mark = document.createElement("button");
      mark.type = "button";
      mark.tabIndex = -1; // the keys , and . go from mark to mark
      const best = !stack && found.frame === home && found.status === "analysed";
      mark.className = `mark mark-${found.status === "analysed" ? (found.suspicious ? "suspicious" : "analysed") : "refused"}${best ? " mark-best" : ""}`;
      mark.style.left = `${frames > 1 ? (100 * found.frame) / (frames - 1) : 0}%`;
      mark.title = mark.ariaLabel = `${t("viewer.frame", { n: found.frame + 1 })}: ${found.status === "analysed" ? word("label", found.label) : t("viewer.refused")}${best ? ` (${t("viewer.best")})` : ""}`;
      mark.addEventListener("click", () => { this.stop(); this.pane.go(found.frame); });
      return mark;
    }));
    this.tell();
  }

  tell() {
    const { frame, frames } = this.pane;
    this.slider.value = String(frame);
    this.slider.ariaValueText = t("viewer.frame_of", { n: frame + 1, m: frames });
    this.counter.textContent = `${frame + 1} / ${frames}`;
    this.rate.textContent = `${SPEEDS[this.speed]}×`;
    this.playButton.setAttribute("aria-pressed", String(this.playing));
  }

  get interval() { return (this.pane.frameTime > 0 ? this.pane.frameTime : DEFAULT_MS) / SPEEDS[this.speed]; }

  faster(step) {
    this.speed = Math.min(SPEEDS.length - 1, Math.max(0, this.speed + step));
    this.tell();
  }

  toggle() { if (this.playing) this.stop(); else this.play(); }

  play() {
    if (this.playing || this.pane.frames < 2) return;
    this.playing = true;
    this.due = performance.now() + this.interval;
    this.tell();
    const tick = (now) => {
      if (!this.playing) return;
      if (now >= this.due) {
        const next = (this.pane.frame + 1) % this.pane.frames;
        for (let i = 0; i < Math.min(AHEAD, this.pane.frames - 1); i += 1) this.pane.prefetch((next + i) % this.pane.frames);
        // A frame that has not come yet is waited for: what was not shown must not pass for having been seen.
        if (this.pane.showKept(next)) this.due = Math.max(this.due + this.interval, now);
      }
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  /** Stop where it is. */
  halt() {
    this.playing = false;
    this.tell();
  }

  stop() {
    if (!this.playing) return;
    this.halt();
    this.pane.go(this.pane.frame); // in full resolution
  }
}
