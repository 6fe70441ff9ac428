// Event review: the strip around one alarm, moved, measured and printed. Keys first; the pointer does the same.
// Drawing is in paper.js, arithmetic in calipers.js.

import { t, ready } from "../texts.js";
import { localTime } from "../times.js";
import { Lane } from "./paper.js";
import { ORDER, colour, rank } from "../waves/kinds.js";
import { NOMINAL, decode, interval, join, snap, valueAt } from "./calipers.js";

const main = document.getElementById("main");
const find = (name) => document.querySelector(`[data-${name}]`);
const { older, newer } = main.dataset;
const sources = main.dataset.sources.split(" "); // the one that alarmed first; a bed may consist of more
const event0 = Number(main.dataset.onset || main.dataset.raised);
const paper = find("paper");
// Canvas pixels per millimetre of paper. Chromium cuts the scale at which it prints a canvas down to 64ths: at six pixels
// rows came out 248.1 mm long instead of 250. A hair less than two pixels per CSS pixel is cut down to exactly a half.
const PRINT_PX = 2 * NOMINAL * 0.9995;
const PRINT_MM = 250; // of a row on A4 across: ten seconds at 25 mm/s
let channels = [];
let lanes = [];
let mm = Number(localStorage.getItem("px_per_mm")) || 0;
const view = { from: Number(main.dataset.start), speed: 25 };
let gain = 10;
let marks = null;
let march = false;
let active = 0;
let fetched = null; // [from, to] in ms
let busy = false;

const scale = () => mm || NOMINAL;
const width = () => paper.clientWidth;
const span = () => (width() / (view.speed * scale())) * 1000;

async function fetchOne(source, from, seconds) {
  const query = new URLSearchParams({ source, start: String(from), seconds: String(seconds) });
  const answer = await fetch(`/api/strip?${query}`, { headers: { accept: "application/json" } });
  if (answer.ok) return (await answer.json()).channels.map((channel) => ({ ...decode(channel), source }));
  throw new Error((await answer.json().catch(() => ({}))).error ?? String(answer.status));
}

/** The channels of all sources of the bed, in the order of a bed page. One source that has nothing hides no other. */
async function fetchStrip(from, seconds) {
  const found = await Promise.allSettled(sources.map((source) => fetchOne(source, from, seconds)));
  const there = found.filter(({ status }) => status === "fulfilled").flatMap(({ value }) => value);
  if (!found.some(({ status }) => status === "fulfilled")) throw found[0].reason;
  return there.map((channel, i) => [channel, i]).sort(([a, i], [b, j]) => rank(a.kind) - rank(b.kind) || i - j).map(([channel]) => channel);
}

function problem(text) {
  const box = find("problem");
  box.hidden = !text;
  box.textContent = text;
}

async function load(from, seconds) {
  if (busy) return;
  busy = true;
  try {
    const fresh = await fetchStrip(from, seconds);
    channels = fresh.map((one) => join(channels.find((old) => old.name === one.name && old.source === one.source), one));
    fetched = fetched ? [Math.min(fetched[0], from), Math.max(fetched[1], from + seconds * 1000)] : [from, from + seconds * 1000];
    problem(channels.some((one) => one.values.some((value) => !Number.isNaN(value))) ? "" : t("review.nothing"));
    build();
  } catch (error) {
    problem(t("review.failed", { reason: error.message }));
  } finally { busy = false; }
}

function colours() {
  const style = getComputedStyle(paper);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    paper: read("--paper"), fine: read("--paper-fine"), coarse: read("--paper-coarse"), trace: read("--paper-trace"), ink: read("--paper-ink"),
    traces: Object.fromEntries(ORDER.map((kind) => [kind, kind === "ecg" ? read("--paper-trace") : read(colour(kind))])), event: read("--paper-event"), mark: read("--paper-mark"), span: read("--paper-span"),
  };
}

function build() {
  if (lanes.length !== channels.length) {
    paper.replaceChildren(...channels.map(() => document.createElement("canvas")));
    lanes = channels.map((channel, i) => new Lane(paper.children[i], channel));
  }
  lanes.forEach((lane, i) => { lane.channel = channels[i]; });
  size();
}

function size() {
  for (const lane of lanes) lane.size(width(), Lane.height(lane.channel, gain), scale());
  draw();
}

/** What is marked on the strip: where it began, where it was decided, when it was told. */
function events() {
  const found = [];
  const { onset, onsetSample, decisiveSample, raised } = main.dataset;
  if (onset) {
    found.push({ time: Number(onset), text: t("review.onset") });
    const rate = channels[0]?.rate;
    if (Number(decisiveSample) >= 0 && Number(onsetSample) >= 0 && rate) found.push({ time: Number(onset) + ((decisiveSample - onsetSample) / rate) * 1000, text: t("review.decisive"), dashed: true });
  } else found.push({ time: Number(raised), text: t("review.raised"), dashed: true });
  return found;
}

function draw() {
  const paint = colours();
  const marked = events();
  lanes.forEach((lane, i) => {
    lane.place(view, gain);
    lane.draw(paint, { events: marked, marks, march, active: i === active });
    lane.canvas.classList.toggle("active", marks !== null && i === active);
  });
  say();
  find("scale-note").textContent = `${t(mm ? "review.scale_kept" : "review.scale_nominal", { speed: view.speed, gain })} · ${localTime(new Date(view.from), "full")}`;
}

/** What the calipers measure, in words. */
function say() {
  const said = find("said");
  if (!marks || !lanes.length) { said.textContent = ""; return; }
  const { ms, perMinute } = interval(marks.a.time, marks.b.time);
  const channel = lanes[active].channel;
  const [a, b] = [marks.a, marks.b].map((mark) => mark.level ?? valueAt(channel, mark.time));
  const parts = [t("review.interval", { ms: Math.round(ms), rate: perMinute ? perMinute.toFixed(perMinute < 100 ? 1 : 0) : "—" })];
  parts.push(a === null || b === null ? t("review.no_value", { name: channel.name }) : t("review.amplitude", { name: channel.name, value: (b - a).toFixed(channel.ecg ? 2 : 1), unit: channel.unit === "1" ? "" : channel.unit }));
  const text = parts.join("   ");
  if (said.textContent !== text) said.textContent = text;
}

function setCalipers(on) {
  marks = on ? { a: { time: view.from + span() / 3, level: null }, b: { time: view.from + (span() * 2) / 3, level: null }, chosen: "A" } : null;
  if (marks && lanes.length) for (const mark of [marks.a, marks.b]) mark.time = snap(lanes[active].channel, mark.time);
  find("calipers").setAttribute("aria-pressed", String(on));
  draw();
}

function setMarch(on) {
  march = on;
  find("march").setAttribute("aria-pressed", String(on));
  if (on && !marks) setCalipers(true); else draw();
}

const chosen = () => (marks?.chosen === "A" ? marks.a : marks?.chosen === "B" ? marks.b : null);

function scroll(ms) {
  view.from += ms;
  draw();
  if (!fetched) return;
  if (view.from < fetched[0]) load(fetched[0] - 15_000, 15);
  else if (view.from + span() > fetched[1] && fetched[1] < Date.now() + 5000) load(fetched[1], 15);
}

function moveMark(samples) {
  const mark = chosen();
  const { channel } = lanes[active];
  mark.time = snap(channel, mark.time + (samples / channel.rate) * 1000);
  mark.level = null; // it lies on the signal again
  if (mark.time < view.from || mark.time > view.from + span()) view.from = mark.time - span() / 2;
  draw();
}

function moveLevel(direction, far) {
  const mark = chosen();
  const lane = lanes[active];
  const now = mark.level ?? valueAt(lane.channel, mark.time);
  if (now === null) return;
  mark.level = now + (direction * (far ? 1 : 0.1) * lane.mm) / lane.perUnit; // a tenth of a millimetre, or one
  draw();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea") || !lanes.length) return;
  const pressed = event.key.toLowerCase();
  const side = { arrowleft: -1, arrowright: 1 }[pressed];
  const up = { arrowup: 1, arrowdown: -1 }[pressed];
  if (side && chosen()) moveMark(side * (event.shiftKey ? Math.round(lanes[active].channel.rate / 10) : 1));
  else if (side) scroll(side * (event.shiftKey ? span() * 0.9 : 1000));
  else if (up && chosen()) moveLevel(up, event.shiftKey);
  else if (pressed === "c") setCalipers(!marks);
  else if (pressed === "m") setMarch(!march);
  else if ((pressed === "a" || pressed === "b") && marks) { marks.chosen = pressed.toUpperCase(); draw(); }
  else if (pressed === "escape" && chosen()) { marks.chosen = ""; draw(); }
  else if (event.key === "Tab" && marks && document.activeElement === paper && active + (event.shiftKey ? -1 : 1) in lanes) { active += event.shiftKey ? -1 : 1; draw(); }
  else if (pressed === "0") { view.from = event0 - span() / 3; draw(); }
  else if (pressed === "j" && older) location.assign(older);
  else if (pressed === "k" && newer) location.assign(newer);
  else if (event.key === ",") load(fetched[0] - 15_000, 15).then(() => scroll(-span() / 2));
  else if (event.key === ".") load(fetched[1], 15).then(() => scroll(span() / 2));
  else return;
  event.preventDefault();
}

// ---------------------------------------- pointer

let drag = null;
paper.addEventListener("pointerdown", (event) => {
  const i = lanes.findIndex((lane) => lane.canvas === event.target);
  if (i < 0) return;
  paper.focus({ preventScroll: true });
  const x = event.offsetX;
  active = marks ? i : active;
  const near = marks && [["A", marks.a], ["B", marks.b]].map(([name, mark]) => [name, mark, Math.abs(lanes[i].x(mark.time) - x)]).sort((p, q) => p[2] - q[2])[0];
  if (near && near[2] < 24) { marks.chosen = near[0]; drag = { mark: near[1] }; } else drag = { from: view.from, x: event.clientX };
  paper.setPointerCapture(event.pointerId);
  draw();
});
paper.addEventListener("pointermove", (event) => {
  if (!drag) return;
  if (drag.mark) {
    const box = paper.getBoundingClientRect();
    drag.mark.time = snap(lanes[active].channel, lanes[active].time(event.clientX - box.left));
    drag.mark.level = null;
    draw();
  } else scroll(drag.from - (event.clientX - drag.x) / lanes[0].perMs - view.from);
});
for (const name of ["pointerup", "pointercancel"]) paper.addEventListener(name, () => { drag = null; });
paper.addEventListener("wheel", (event) => {
  const by = Math.abs(event.deltaX) > Math.abs(event.deltaY) ? event.deltaX : event.shiftKey ? event.deltaY : 0;
  if (!by || !lanes.length) return;
  event.preventDefault();
  scroll(by / lanes[0].perMs);
}, { passive: false });

// ---------------------------------------- scale and print

function showCard() {
  find("card").style.width = `${85.6 * Number(find("mm").value)}px`; // ISO/IEC 7810 ID-1: any bank card
  find("card").style.height = `${53.98 * Number(find("mm").value)}px`;
}

function scalePanel(on) {
  find("scale-panel").hidden = !on;
  find("scale").setAttribute("aria-expanded", String(on));
  find("mm").value = scale();
  showCard();
}

/** Rows of ten seconds at true size: what a printer puts on paper does not depend on the screen. */
function makePrint() {
  const area = find("print-area");
  const paint = { paper: "#fff", fine: "#f3c9c4", coarse: "#e08a80", trace: "#000", ink: "#000", event: "#333", mark: "#00f", span: "rgb(0 0 255 / 8%)" };
  const title = document.createElement("h1");
  title.textContent = document.querySelector("h1").textContent.trim();
  const facts = document.createElement("p");
  const zoned = (ms) => localTime(new Date(ms), "zoned");
  facts.textContent = [
    main.dataset.place, zoned(Number(main.dataset.raised)), find("standing").textContent.trim(), t("review.scale_print", { speed: view.speed, gain }), t("review.source", { name: sources.join(", ") }), find("said").textContent,
  ].filter(Boolean).join(" · ");
  // Who lies in a bed is not known here, and a strip without a name belongs to nobody: there is a line to write on.
  const patient = Object.assign(document.createElement("p"), { className: "print-patient", textContent: t("review.patient_line", { line: "_".repeat(34), number: "_".repeat(18) }) });
  area.replaceChildren(title, facts, patient);
  const [from, to] = [Number(main.dataset.start), Number(main.dataset.start) + Number(main.dataset.seconds) * 1000];
  const step = (PRINT_MM / view.speed) * 1000;
  for (let at = from; at < to; at += step) {
    const when = document.createElement("p");
    when.textContent = localTime(new Date(at), "zoned");
    area.append(when);
    for (const channel of channels) {
      const canvas = document.createElement("canvas");
      const lane = new Lane(canvas, channel);
      const heightMm = Lane.height(channel, gain);
      lane.size(PRINT_MM * PRINT_PX, heightMm, PRINT_PX, 1);
      canvas.style.width = `${PRINT_MM}mm`;
      canvas.style.height = `${heightMm}mm`;
      lane.place({ from: at, speed: view.speed }, gain);
      lane.draw(paint, { events: events(), marks, march: false, active: false });
      canvas.style.maxWidth = "none"; // a narrower paper cuts the row: it must not shrink it
      area.append(canvas);
    }
  }
  const end = Object.assign(document.createElement("p"), { className: "print-end" });
  end.textContent = [t("review.printed", { time: zoned(Date.now()), name: document.documentElement.dataset.user ?? "—" }), document.querySelector(".foot span").textContent, t("review.check_scale")].join(" · ");
  area.append(end);
}

ready.then(() => {
  document.addEventListener("keydown", key);
  find("calipers").addEventListener("click", () => setCalipers(!marks));
  find("march").addEventListener("click", () => setMarch(!march));
  find("speed").addEventListener("change", (event) => { const middle = view.from + span() / 2; view.speed = Number(event.target.value); view.from = middle - span() / 2; draw(); });
  find("gain").addEventListener("change", (event) => { gain = Number(event.target.value); size(); });
  find("scale").addEventListener("click", () => scalePanel(find("scale-panel").hidden));
  find("mm").addEventListener("input", showCard);
  find("scale-keep").addEventListener("click", () => { mm = Number(find("mm").value); localStorage.setItem("px_per_mm", String(mm)); scalePanel(false); size(); });
  find("scale-forget").addEventListener("click", () => { mm = 0; localStorage.removeItem("px_per_mm"); scalePanel(false); size(); });
  find("print").addEventListener("click", () => { makePrint(); print(); });
  addEventListener("beforeprint", makePrint);
  document.addEventListener("theme", draw);
  new ResizeObserver(() => { if (lanes.length && lanes[0].width !== width()) size(); }).observe(paper);
  view.from = event0 - Math.min(span() / 3, 10_000);
  load(Number(main.dataset.start), Number(main.dataset.seconds)).then(() => paper.focus({ preventScroll: true }));
});
