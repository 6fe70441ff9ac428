// The bed wall and the single bed: tiles, numbers, alarms, acknowledging. The traces themselves are in trace.js.

import { link, want, state } from "./link.js";
import { t, has, word, alarmText, duration, ready } from "./texts.js";
import { Sweep, readFrame } from "./trace.js";
import { inPhase, toast } from "./main.js";

const RANK = { high: 0, medium: 1, low: 2 };
const main = document.getElementById("main");
const wall = document.querySelector("[data-wall]");
const only = main.dataset.one ?? "";
const csrf = document.querySelector("meta[name=csrf]").content;
const tiles = new Map();
let beds = [];

const order = (a, b) => (a.acknowledged - b.acknowledged) || (RANK[a.priority] - RANK[b.priority]) || (b.raised - a.raised);
const urgency = (bed) => (bed.alarms.length ? (bed.alarms[0].acknowledged ? 10 : 0) + RANK[bed.alarms[0].priority] : 99);

const shortRhythm = (code) => (has(`alarm_short.${code}`) ? t(`alarm_short.${code}`) : word("rhythm", code));

class Tile {
  constructor(element, id) {
    this.element = element;
    this.id = id;
    this.find = (name) => element.querySelector(`[data-${name}]`);
    this.sweep = new Sweep(this.find("canvas"), {
      onBeat: () => this.beat(),
      onLead: (lead) => { this.find("lead").textContent = t("bed.lead", { name: lead }); },
    });
    this.find("ack")?.addEventListener("click", () => this.acknowledge());
    const anchor = this.find("link");
    if (anchor) anchor.href = `/beds/${encodeURIComponent(id)}`;
    this.find("scale").textContent = t("bed.scale", { speed: 25, gain: 10 });
    this.alarmKey = "";
  }

  beat() {
    const heart = this.find("beat");
    heart.classList.add("on");
    clearTimeout(this.beatTimer);
    this.beatTimer = setTimeout(() => heart.classList.remove("on"), 140);
  }

  set(name, text) {
    const target = this.find(name);
    if (target.textContent !== text) target.textContent = text;
  }

  show(bed) {
    this.bed = bed;
    this.set("label", bed.label || bed.id);
    this.set("hr", bed.hr === null ? "– –" : String(Math.round(bed.hr)));
    this.find("hr").classList.toggle("none", bed.hr === null);
    this.set("rhythm", bed.stale ? t("bed.age", { age: duration(bed.age) }) : bed.rhythm ? shortRhythm(bed.rhythm) : "");
    this.element.classList.toggle("old", bed.stale || bed.hr === null);
    const bars = bed.quality === null || bed.stale ? 0 : Math.ceil(Math.max(0, Math.min(1, bed.quality)) * 4);
    [...this.find("quality").children].forEach((bar, i) => bar.classList.toggle("on", i < bars));
    const veil = this.find("veil");
    let over = "";
    if (bed.rhythm === "standby") over = word("rhythm", "standby");
    else if (bed.stale) over = t("bed.stale", { age: duration(bed.age) });
    else if (bed.off) over = t("bed.lead_off");
    else if (!this.sweep.playout.rate) over = t("bed.waiting_trace");
    veil.hidden = !over;
    if (veil.textContent !== over) veil.textContent = over;
    const faded = bed.stale || bed.off;
    if (faded !== this.sweep.faded) { this.sweep.faded = faded; this.sweep.redraw(); }
    this.alarms(bed.alarms);
  }

  alarms(alarms) {
    const first = alarms[0];
    const waiting = alarms.filter((alarm) => !alarm.acknowledged);
    const key = JSON.stringify(alarms.map((a) => [a.id, a.acknowledged, a.present, a.args, a.by]));
    if (key === this.alarmKey) return;
    this.alarmKey = key;
    const strip = this.find("alarm");
    strip.hidden = !first;
    const looks = ["alarm-high", "alarm-medium", "alarm-low", "acknowledged"];
    const wanted = first ? [`alarm-${first.priority}`, ...(first.acknowledged ? ["acknowledged"] : [])] : [];
    for (const name of looks) strip.classList.toggle(name, wanted.includes(name));
    this.set("alarm-text", first ? alarmText(first) : "");
    strip.title = alarms.map(alarmText).join("\n");
    this.set("alarm-more", first?.acknowledged && first.by ? t("bed.acknowledged_by", { name: first.by }) : alarms.length > 1 ? `+${alarms.length - 1}` : "");
    for (const priority of Object.keys(RANK)) this.element.classList.toggle(`alarmed-${priority}`, waiting[0]?.priority === priority);
    const button = this.find("ack");
    if (button) { button.hidden = !waiting.length; button.disabled = false; }
    inPhase(this.element);
  }

  async acknowledge() {
    const ids = this.bed.alarms.filter((alarm) => !alarm.acknowledged).map((alarm) => alarm.id);
    const button = this.find("ack");
    if (!ids.length) return;
    button.disabled = true;
    const body = new URLSearchParams(ids.map((id) => ["alarm", id]));
    try {
      const answer = await fetch(`/beds/${encodeURIComponent(this.id)}/acknowledge`, {
        method: "POST", body, headers: { "x-csrf": csrf, accept: "application/json" },
      });
      if (!answer.ok) {
        const problem = await answer.json().catch(() => ({}));
        toast(problem.error ?? t("live.acknowledge_failed", { reason: answer.status }));
        button.disabled = false;
      }
    } catch {
      toast(t("live.acknowledge_unreachable"));
      button.disabled = false;
    }
    // The strip changes when the monitor says so, not before: a click is not yet an acknowledgement.
    setTimeout(() => { if (button.isConnected) button.disabled = false; }, 3000);
  }
}

// ---------------------------------------- the wall

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const tile = tiles.get(entry.target.dataset.device);
    if (tile) tile.sweep.visible = entry.isIntersecting;
  }
  tellView();
}, { rootMargin: "120px" });

const sized = new ResizeObserver((entries) => {
  for (const entry of entries) tiles.get(entry.target.closest("[data-tile]").dataset.device)?.sweep.resize();
});

let toldView = "";
function tellView() {
  const view = document.hidden ? [] : [...tiles.values()].filter((tile) => tile.sweep.visible).map((tile) => tile.id).sort();
  if (view.join() === toldView) return;
  toldView = view.join();
  want({ view });
}

function tileOf(bed) {
  let tile = tiles.get(bed.id);
  if (!tile) {
    const element = only ? document.querySelector("[data-tile]") : document.getElementById("bed").content.firstElementChild.cloneNode(true);
    element.dataset.device = bed.id;
    if (!only) wall.append(element);
    tile = new Tile(element, bed.id);
    tiles.set(bed.id, tile);
    seen.observe(element);
    sized.observe(element.querySelector(".bed-trace"));
  }
  return tile;
}

const choice = (name) => document.querySelector(`[data-${name}]`);
const alarmsFirst = choice("alarms-first");
const alarmsOnly = choice("alarms-only");

/** Columns and height of the tiles: as wide as possible, so that all beds fit on the screen if they can. */
function layout(count) {
  if (!wall || !count) return;
  const width = wall.clientWidth;
  const phone = width < 700;
  const room = Math.max(300, innerHeight - wall.getBoundingClientRect().top - scrollY - 44);
  const most = Math.max(1, Math.min(6, Math.floor((width + 8) / 408)));
  let columns = most;
  for (let c = 1; c <= most; c += 1) {
    if ((room - 8 * (Math.ceil(count / c) - 1)) / Math.ceil(count / c) >= 168) { columns = c; break; }
  }
  const rows = Math.ceil(count / columns);
  const fit = (room - 8 * (rows - 1)) / rows;
  const height = phone ? 168 : Math.max(172, Math.min(300, Math.floor(fit)));
  wall.style.setProperty("--columns", phone ? "1" : String(columns));
  wall.style.setProperty("--tile", `${height}px`);
}

function arrange() {
  let list = [...beds];
  if (alarmsOnly?.checked) list = list.filter((bed) => bed.alarms.length);
  if (alarmsFirst?.checked) list.sort((a, b) => urgency(a) - urgency(b) || a.label.localeCompare(b.label, undefined, { numeric: true }));
  const ids = list.map((bed) => bed.id);
  for (const [id, tile] of tiles) {
    const gone = !ids.includes(id);
    tile.element.hidden = gone;
    if (gone && !beds.some((bed) => bed.id === id)) {
      seen.unobserve(tile.element);
      tile.element.remove();
      tiles.delete(id);
    }
  }
  const present = [...wall.children].filter((child) => !child.hidden).map((child) => child.dataset.device);
  if (present.join() !== ids.join() && !wall.contains(document.activeElement)) {
    for (const id of ids) wall.append(tiles.get(id).element);
  }
  layout(ids.length);
  const alarmed = beds.filter((bed) => bed.alarms.length).length;
  choice("bed-count").textContent = t(alarmed ? "bed.count_alarmed" : "bed.count", { n: beds.length, m: alarmed });
  choice("waiting").hidden = true;
  choice("empty").hidden = beds.length > 0;
  choice("none").hidden = !(beds.length && !ids.length);
}

function facts(bed) {
  const put = (name, text) => { document.querySelector(`[data-field=${name}]`).textContent = text; };
  const number = (value) => (value === null ? "—" : String(Math.round(value)));
  put("hr", number(bed.hr));
  put("rhythm", bed.rhythm ? word("rhythm", bed.rhythm) : "—");
  put("width", number(bed.width));
  put("vpm", number(bed.vpm));
  put("quality", bed.quality === null ? "—" : String(Math.round(bed.quality * 100)));
  put("age", duration(bed.age));
  put("packets", String(bed.packets));
  put("missing", String(bed.missing));
}

function take(list) {
  beds = list;
  for (const bed of beds) bed.alarms.sort(order);
  for (const bed of beds) if (!only || bed.id === only) tileOf(bed).show(bed);
  if (only) { const mine = beds.find((bed) => bed.id === only); if (mine) facts(mine); }
  else arrange();
}

/** A transition comes before the next numerics: show it at once. */
function takeAlarm({ detail: { alarm } }) {
  const bed = beds.find((one) => one.id === alarm.device);
  if (!bed) return;
  bed.alarms = bed.alarms.filter((one) => one.id !== alarm.id);
  if (!alarm.ended) bed.alarms.push(alarm);
  bed.alarms.sort(order);
  const tile = tiles.get(bed.id);
  if (tile) tile.alarms(bed.alarms);
  if (!only) arrange();
}

function remember(box, name) {
  if (!box) return;
  box.checked = localStorage.getItem(name) === "1" || (name === "alarms-first" && new URLSearchParams(location.search).get("alarms") === "first");
  box.addEventListener("change", () => { localStorage.setItem(name, box.checked ? "1" : "0"); arrange(); });
}

ready.then(() => {
  remember(alarmsFirst, "alarms-first");
  remember(alarmsOnly, "alarms-only");
  choice("fullscreen")?.addEventListener("click", () => {
    if (document.fullscreenElement) document.exitFullscreen();
    else document.documentElement.requestFullscreen?.().catch(() => {});
  });
  link.addEventListener("beds", ({ detail }) => take(detail.beds));
  link.addEventListener("alarm", takeAlarm);
  link.addEventListener("trace", ({ detail }) => {
    const frame = readFrame(detail);
    if (frame) tiles.get(frame.device)?.sweep.take(frame, performance.now());
  });
  want({ beds: true });
  const again = () => layout([...tiles.values()].filter((tile) => !tile.element.hidden).length);
  addEventListener("resize", again);
  link.addEventListener("state", () => requestAnimationFrame(again)); // the banner takes some of the room
  document.addEventListener("theme", () => { for (const tile of tiles.values()) tile.sweep.redraw(); });
  document.addEventListener("visibilitychange", tellView);
  requestAnimationFrame(function draw(now) {
    // Without a live link the pens stand still: a moving trace would say that it is live.
    if (state === "live") for (const tile of tiles.values()) tile.sweep.frame(now);
    requestAnimationFrame(draw);
  });
});
