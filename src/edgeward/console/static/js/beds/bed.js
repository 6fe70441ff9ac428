// One bed: its tile, large, every value with limits and age, the early warning score, keys. Trends are in trend.js.

import { link, want, state, siteNow } from "../link.js";
import { t, word, duration, ready } from "../texts.js";
import { readFrame } from "../waves/frame.js";
import { Screen } from "../waves/screen.js";
import { Tile, alarmOrder } from "./tile.js";
import { NONE, beyond, heart, byName, isValue, number, parameterName, rank, severity, shown, unitText } from "./values.js";
import { Trends } from "./trend.js";

const id = document.getElementById("main").dataset.one;
const find = (name) => document.querySelector(`[data-${name}]`);
await ready; // the tile has words of its own
find("tile").dataset.device = id;
const tile = new Tile(find("tile"), id, (options) => new Screen(find("tile"), find("screen-tools"), options));
const screen = tile.sweep;
let bed = null;
let heardAt = 0;

function cell(tag, text, name = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

function limitsText(vital) {
  if (vital.low === null && vital.high === null) return t("bed.no_limits");
  const text = (value) => (value === null ? "–" : number(vital.p, value));
  return `${text(vital.low)} … ${text(vital.high)}`;
}

const rows = new Map();
function row(vital) {
  let found = rows.get(vital.p);
  if (!found) {
    const line = document.createElement("tr");
    const name = cell("th", parameterName(vital.p));
    name.scope = "row";
    found = { line, value: cell("td", "", "num value"), limits: cell("td", "", "num ink-2"), age: cell("td", ""), source: cell("td", "", "opt ink-2") };
    line.append(name, found.value, found.limits, found.age, found.source);
    rows.set(vital.p, found);
    const list = [...rows.entries()].sort((a, b) => rank(a[0]) - rank(b[0]));
    find("values").replaceChildren(...list.map(([, one]) => one.line));
  }
  return found;
}

function values(now) {
  const vitals = byName(bed);
  const list = bed.vitals.length ? bed.vitals : [heart(bed, vitals)];
  for (const name of [...rows.keys()]) if (!list.some((vital) => vital.p === name)) { rows.get(name).line.remove(); rows.delete(name); }
  for (const vital of list) {
    const cells = row(vital);
    const there = vital.v !== null && !vital.stale;
    const sign = beyond(vital);
    cells.value.textContent = there ? `${sign ? `${sign} ` : ""}${shown(vital)} ${unitText(vital.unit)}`.trim() : NONE;
    for (const priority of ["high", "medium", "low"]) cells.value.classList.toggle(`value-${priority}`, vital.pr === priority);
    cells.limits.textContent = limitsText(vital);
    cells.age.textContent = vital.stale ? t("bed.stale_value", { age: duration(vital.age + now - heardAt) }) : vital.age ? duration(vital.age + now - heardAt) : "—";
    cells.line.classList.toggle("faded", !there);
    cells.source.textContent = vital.source;
  }
  find("no-values").hidden = list.length > 0;
}

function facts() {
  const put = (name, text) => { document.querySelector(`[data-field=${name}]`).textContent = text; };
  const whole = (value) => (value === null ? "—" : String(Math.round(value)));
  put("rhythm", bed.rhythm ? word("rhythm", bed.rhythm) : "—");
  put("width", whole(bed.width));
  put("vpm", whole(bed.vpm));
  put("quality", bed.quality === null ? "—" : String(Math.round(bed.quality * 100)));
  put("age", duration(bed.age));
  put("missing", `${bed.missing} / ${bed.packets}`);
  put("clock", bed.offset === null ? t("bed.clock_unknown") : t("bed.clock", { ms: Math.round(bed.offset), ppm: bed.drift === null ? "—" : bed.drift.toFixed(1) }));
  put("sources", bed.sources.join(", ") || bed.source || "—");
  find("place").textContent = [bed.ward, bed.id].filter(Boolean).join(" · ");
}

const names = (list) => list.map((name) => word("parameter", name)).join(", ");
function score() {
  const news2 = bed.news2;
  const complete = news2 && news2.total !== null;
  find("news2-total").textContent = complete ? String(news2.total) : news2 && Object.keys(news2.scores).length ? `≥ ${news2.at_least}` : "—";
  find("news2-response").textContent = complete ? t(`bed.response.${news2.response || "none"}`) : t("bed.news2_incomplete");
  const why = [];
  if (news2?.missing.length) why.push(t("bed.news2_missing", { names: names(news2.missing) }));
  if (news2?.stale.length) why.push(t("bed.news2_stale", { names: names(news2.stale) }));
  if (news2?.age) why.push(t("bed.news2_age", { age: duration(news2.age) }));
  if (news2?.scale2) why.push(t("bed.news2_scale2"));
  find("news2-why").textContent = why.join(" ");
  find("news2-scores").replaceChildren(...Object.entries(news2?.scores ?? {}).map(([name, points]) => cell("li", `${word("parameter", name)} ${points}`, points >= 3 ? "strong" : "")));
}

function pauseWord() {
  const button = find("pause-bed");
  if (!button) return;
  const left = bed ? bed.paused - siteNow() : 0;
  const text = left > 0 ? t("bed.pause_end", { time: duration(left) }) : t("bed.pause");
  const target = find("pause-word");
  if (target.textContent !== text) target.textContent = text;
}

/** Numbers that a wall has no room for. */
function more() {
  const vitals = byName(bed);
  const one = (name, key, digits = key) => {
    const vital = vitals[key];
    tile.value(name, isValue(vital) ? shown(vital, digits) : vital ? NONE : "", { pr: vital?.pr, sign: beyond(vital), none: !isValue(vital) });
    const box = tile.find(name)?.closest("[data-of]");
    if (box) box.hidden = !vital;
  };
  for (const [name, key] of [["cvp", "cvp_mean"], ["etco2", "etco2"], ["pi", "perfusion_index"]]) one(name, key);
  for (const [name, kind] of [["abp", "abp"], ["nibp", "nibp"]]) {
    const [high, low, mean] = ["systolic", "diastolic", "mean"].map((part) => vitals[`${kind}_${part}`]);
    const there = isValue(high) || isValue(mean);
    const text = there ? `${isValue(high) ? shown(high, "") : "—"}/${isValue(low) ? shown(low, "") : "—"}` : high || mean ? NONE : "";
    const worst = [high, low, mean].filter((vital) => vital?.pr).sort((a, b) => severity(a.pr) - severity(b.pr))[0];
    tile.value(name, text, { pr: worst?.pr ?? "", sign: [high, low, mean].map(beyond).find(Boolean) ?? "", none: !there });
    tile.set(`${name}-mean`, isValue(mean) ? `(${shown(mean, "")})` : "");
    const box = tile.find(name)?.closest("[data-of]");
    if (box) box.hidden = !high && !mean;
  }
}

function show() {
  const now = siteNow();
  tile.show(bed, now);
  more();
  values(now);
  facts();
  score();
  pauseWord();
}

function key(event) {
  if (!bed || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const pressed = event.key.toLowerCase();
  if (pressed === "a") tile.acknowledge();
  else if (pressed === "p") tile.pause(siteNow());
  else if (!screen.key(pressed)) return;
  event.preventDefault();
}

/** Sources whose traces are shown: that of the rhythm first. */
const sources = () => [...new Set([bed?.source, ...(bed?.sources ?? [])])].filter(Boolean);
let toldView = "";
function tellView() {
  const view = document.hidden ? [] : sources();
  if (view.join() === toldView) return;
  toldView = view.join();
  want({ view, waves: ["*"] });
}

ready.then(() => {
  link.addEventListener("beds", ({ detail }) => {
    const mine = detail.beds.find((one) => one.id === id);
    if (!mine) return;
    bed = mine;
    heardAt = siteNow();
    screen.expect(sources());
    show();
    tellView();
  });
  link.addEventListener("alarm", ({ detail: { alarm } }) => {
    if (!bed || alarm.bed !== id) return;
    bed.alarms = bed.alarms.filter((one) => one.id !== alarm.id);
    if (!alarm.ended) bed.alarms.push(alarm);
    bed.alarms.sort(alarmOrder);
    tile.alarms(bed.alarms);
  });
  link.addEventListener("trace", ({ detail }) => {
    const frame = readFrame(detail);
    if (frame) screen.take(frame, performance.now());
  });
  find("pause-bed")?.addEventListener("click", () => bed && tile.pause(siteNow()));
  document.addEventListener("keydown", key);
  document.addEventListener("theme", () => screen.redraw());
  document.addEventListener("visibilitychange", tellView);
  new ResizeObserver(() => tile.refit()).observe(find("screen"));
  want({ bed: id, ward: localStorage.getItem("ward") ?? "" });
  setInterval(() => { if (bed) { tile.ageing(siteNow()); values(siteNow()); pauseWord(); } }, 1000);
  requestAnimationFrame(function draw(now) {
    if (state === "live") screen.frame(now);
    requestAnimationFrame(draw);
  });
  new Trends(find("trends")).start();
});
