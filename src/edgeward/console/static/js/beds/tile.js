// One bed on a wall or, large, on its own page: label, alarm, trace, values. Responsible for showing one state of one bed;
// which beds are shown, and where, is the wall's business.

import { t, has, word, alarmShort, alarmText, duration } from "../texts.js";
import { Sweep } from "../waves/sweep.js";
import { siteNow } from "../link.js";
import { acknowledge, busy, pause } from "../actions.js";
import { NONE, beyond, byName, heart, isValue, news2, pressure, shown } from "./values.js";

export const SITE = "site.alarms"; // alarms of the site itself come as those of a bed
const RANK = { high: 0, medium: 1, low: 2 };
export const alarmOrder = (a, b) => (a.acknowledged - b.acknowledged) || (RANK[a.priority] - RANK[b.priority]) || (b.present - a.present) || (b.raised - a.raised);
const shortRhythm = (code) => (has(`alarm_short.${code}`) ? t(`alarm_short.${code}`) : word("rhythm", code));

// Writing all and then reading all costs one layout; tile by tile it would cost one each, 64 times over.
const unfitted = new Set();
function fitSoon(tile) {
  if (unfitted.size === 0) {
    requestAnimationFrame(() => {
      const tiles = [...unfitted].filter((one) => one.element.isConnected);
      unfitted.clear();
      const over = tiles.map((one) => one.overflow());
      tiles.forEach((one, i) => one.fit(over[i]));
    });
  }
  unfitted.add(tile);
}

export class Tile {
  /** `sweepOf`: makes what draws the traces, where that is more than the one of a wall. */
  constructor(element, id, sweepOf = (options) => new Sweep(this.find("canvas"), { ...options, second: this.find("second") })) {
    this.element = element;
    this.id = id;
    this.source = "";
    this.found = new Map();
    this.sweep = sweepOf({ onBeat: () => this.beat(), onLead: (lead) => { this.set("lead", t("bed.lead", { name: lead })); } });
    this.find("ack")?.addEventListener("click", () => this.acknowledge());
    this.find("pause")?.addEventListener("click", () => this.pause(siteNow()));
    const anchor = this.find("link");
    if (anchor) anchor.href = `/beds/${encodeURIComponent(id)}`;
    this.set("scale", t("bed.scale", { speed: 25, gain: 10 }));
    this.alarmKey = "";
  }

  find(name) {
    if (!this.found.has(name)) this.found.set(name, this.element.querySelector(`[data-${name}]`));
    return this.found.get(name);
  }

  beat() {
    const mark = this.find("beat");
    mark?.classList.add("on");
    clearTimeout(this.beatTimer);
    this.beatTimer = setTimeout(() => mark?.classList.remove("on"), 140);
  }

  set(name, text) {
    const target = this.find(name);
    if (target && target.textContent !== text) target.textContent = text;
  }

  /** One value: its text, the sign of a limit passed, and the colour of the alarm that it has. */
  value(name, text, { pr = "", sign = "", none = false } = {}) {
    const target = this.find(name);
    if (!target) return;
    if (target.textContent !== text) target.textContent = text;
    if ((target.dataset.sign ?? "") !== sign) { if (sign) target.dataset.sign = sign; else delete target.dataset.sign; }
    const box = target.closest("[data-value]") ?? target;
    for (const priority of Object.keys(RANK)) box.classList.toggle(`value-${priority}`, pr === priority);
    target.classList.toggle("none", none);
  }

  show(bed, now) {
    this.bed = bed;
    this.shownAt = now;
    if (bed.source !== this.source) {
      if (this.source) this.sweep.clear();
      this.source = bed.source;
    }
    const vitals = byName(bed);
    const rate = heart(bed, vitals);
    if (this.find("label").title !== (bed.label || bed.id)) { this.find("label").title = bed.label || bed.id; this.refit(); }
    const pulse = !isValue(rate) && isValue(vitals.pulse_rate) ? vitals.pulse_rate : null;
    const main = pulse ?? rate;
    this.set("hr-label", pulse ? t("bed.pr") : t("bed.hr"));
    this.value("hr", isValue(main) ? shown(main, "heart_rate") : NONE, { pr: main.pr, sign: beyond(main), none: !isValue(main) });
    for (const [name, key] of [["spo2", "spo2"], ["rr", "respiratory_rate"], ["temp", "temperature"]]) {
      const vital = vitals[key];
      this.value(name, isValue(vital) ? shown(vital, key) : vital ? NONE : "", { pr: vital?.pr, sign: beyond(vital), none: !isValue(vital) });
    }
    const bp = pressure(vitals);
    this.set("bp-label", t(`bed.${bp.kind}`));
    this.value("bp", bp.text, { pr: bp.pr, sign: bp.sign, none: !bp.there });
    const score = news2(bed.news2);
    this.value("news2", score.text, { none: !score.text });
    this.set("news2-age", score.text && score.age >= 60e3 ? duration(score.age) : "");
    this.find("news2")?.classList.toggle("score-strong", score.level === "urgent" || score.level === "emergency");
    this.ageing(now);
    this.element.classList.toggle("old", bed.stale || !isValue(main));
    this.element.classList.toggle("standby", bed.standby);
    this.element.classList.toggle("bed-site", bed.id === SITE);
    const bars = bed.quality === null || bed.stale ? 0 : Math.ceil(Math.max(0, Math.min(1, bed.quality)) * 4);
    const quality = this.find("quality");
    if (quality && quality.dataset.bars !== String(bars)) {
      quality.dataset.bars = String(bars);
      [...quality.children].forEach((bar, i) => bar.classList.toggle("on", i < bars));
    }
    this.switchedOff(bed.alarmsOff ?? []);
    const paused = bed.paused > now;
    this.find("paused").hidden = !paused;
    const pauseButton = this.find("pause");
    if (pauseButton) {
      pauseButton.setAttribute("aria-pressed", String(paused));
      pauseButton.hidden = !paused && !bed.alarms.some((alarm) => !alarm.acknowledged);
    }
    this.alarms(bed.alarms);
  }

  /** Alarms that somebody switched off for this bed: a sign as long as they are (IEC 60601-1-8:2020, 6.8.5). */
  switchedOff(codes) {
    const mark = this.find("alarms-off");
    mark.hidden = codes.length === 0;
    const text = codes.length ? t("bed.alarms_off", { names: codes.map((code) => (has(`alarm_short.${code}`) ? t(`alarm_short.${code}`) : word("parameter", code))).join(", ") }) : "";
    if (mark.title !== text) { mark.title = text; this.set("alarms-off-text", text); }
  }

  /** What grows older by itself, between the messages. */
  ageing(now) {
    const { bed } = this;
    if (!bed) return;
    const age = bed.age + (bed.stale ? now - this.shownAt : 0);
    const known = bed.source || bed.vitals.length > 0; // what was never there is not 0 s old
    this.set("rhythm", bed.standby || (bed.stale && !known) ? "" : bed.stale ? t("bed.age", { age: duration(age) }) : bed.rhythm ? shortRhythm(bed.rhythm) : "");
    let over = "";
    if (bed.standby || bed.rhythm === "standby") over = word("rhythm", "standby");
    else if (bed.id === SITE) over = bed.alarms.map(alarmText).join("\n");
    else if (!bed.source) over = t("bed.no_trace");
    else if (bed.stale) over = t("bed.stale", { age: duration(age) });
    else if (bed.off) over = t("bed.lead_off");
    else if (!this.sweep.begun) over = t("bed.waiting_trace");
    const veil = this.find("veil");
    // Where there are lanes, each says what is the matter with it.
    if (this.find("screen") && bed.id !== SITE && !bed.standby && bed.rhythm !== "standby" && this.sweep.begun) over = "";
    veil.hidden = !over;
    if (veil.textContent !== over) veil.textContent = over;
    const faded = bed.stale || bed.off || bed.standby;
    if (faded !== this.sweep.faded) { this.sweep.faded = faded; this.sweep.redraw(); }
  }

  alarms(alarms) {
    const first = alarms[0];
    const waiting = alarms.filter((alarm) => !alarm.acknowledged);
    const key = JSON.stringify(alarms.map((a) => [a.id, a.acknowledged, a.present, a.args, a.by, a.level]));
    if (key === this.alarmKey) return;
    this.alarmKey = key;
    const strip = this.find("alarm");
    if (strip.hidden === Boolean(first)) strip.hidden = !first;
    const looks = ["alarm-high", "alarm-medium", "alarm-low", "acknowledged"];
    const wanted = first ? [`alarm-${first.priority}`, ...(first.acknowledged ? ["acknowledged"] : [])] : [];
    for (const name of looks) strip.classList.toggle(name, wanted.includes(name));
    // The priority is told by the number of marks too: !!! high, !! medium, ! low (IEC 60601-1-8:2020, 6.3.2.2).
    this.set("alarm-marks", first ? "!".repeat(3 - RANK[first.priority]) : "");
    this.texts = first ? [alarmText(first), alarmShort(first)] : ["", ""];
    strip.title = alarms.map(alarmText).join("\n");
    const by = first?.acknowledged && first.by ? t("bed.acknowledged_by", { name: first.by }) : "";
    this.set("alarm-more", by ? `✓ ${first.by}` : alarms.length > 1 ? `+${alarms.length - 1}` : "");
    this.find("alarm-more").title = by;
    for (const priority of Object.keys(RANK)) this.element.classList.toggle(`alarmed-${priority}`, waiting[0]?.priority === priority);
    this.element.setAttribute("aria-label", [this.bed.label || this.id, ...alarms.map(alarmText), by].filter(Boolean).join(". "));
    const button = this.find("ack");
    if (button) button.hidden = !waiting.length;
    const pauseButton = this.find("pause");
    if (pauseButton) pauseButton.hidden = !waiting.length && pauseButton.getAttribute("aria-pressed") !== "true";
    this.refit();
  }

  /** What overflows: the bed's name, the alarm. Reads only. */
  overflow() {
    const [name, alarm] = [this.find("label").closest(".bed-name"), this.find("alarm-text")];
    return [name.scrollWidth > name.clientWidth + 1, alarm.scrollWidth > alarm.clientWidth + 1];
  }

  /** Names of beds often differ at their end: one that is too long is shortened in its middle, so that two never look
   *  alike. An alarm that is too long is said in a word: "Ventricular..." could be either of two. */
  fit([nameOver, alarmOver]) {
    const short = this.texts?.[1];
    if (alarmOver && short) this.set("alarm-text", short);
    const text = this.find("alarm-text");
    if (alarmOver) text.classList.toggle("tight", text.scrollWidth > text.clientWidth + 1);
    if (!nameOver) return;
    const target = this.find("label");
    const box = target.closest(".bed-name");
    const letters = [...target.title];
    for (let keep = letters.length - 1; keep >= 6 && box.scrollWidth > box.clientWidth + 1; keep -= Math.max(1, Math.floor(keep / 10))) {
      const tail = Math.ceil(keep * 0.6);
      target.textContent = `${letters.slice(0, keep - tail).join("")}…${letters.slice(-tail).join("")}`;
    }
  }

  /** Show name and alarm in full, and fit them with those of all other tiles before the next picture. */
  refit() {
    this.set("label", this.find("label").title);
    this.set("alarm-text", this.texts?.[0] ?? "");
    this.find("alarm-text").classList.remove("tight");
    fitSoon(this);
  }

  async acknowledge() {
    const ids = this.bed.alarms.filter((alarm) => !alarm.acknowledged).map((alarm) => alarm.id);
    if (ids.length) await busy(this.find("ack"), () => acknowledge(this.id, ids));
  }

  /** Pause the sound of this bed, or end the pause. */
  pause(now) { return busy(this.find("pause"), () => pause(this.id, { seconds: this.bed.paused > now ? 0 : 120 })); }
}
