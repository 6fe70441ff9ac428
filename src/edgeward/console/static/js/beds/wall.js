// The bed wall: which beds are on the page, how large, and what keys do. What a tile shows is in tile.js.
// The console chooses and orders the beds (console/wall.py), so that a wall of thousands gets only the page it shows.

import { link, want, state, siteNow } from "../link.js";
import { t, ready } from "../texts.js";
import { watch } from "../still.js";
import { readFrame } from "../waves/frame.js";
import { SITE, Tile, alarmOrder } from "./tile.js";
import { columnsFor } from "./grid.js";

const wall = document.querySelector("[data-wall]");
const choice = (name) => document.querySelector(`[data-${name}]`);
const tiles = new Map();
const bySource = new Map();
const beds = new Map();
const inputs = { order: choice("alarms-first"), only: choice("alarms-only"), ward: choice("ward"), density: choice("density"), second: choice("second-wave") };
let page = { ids: [], start: 0, total: 0, alarmed: 0, wards: [] };
let start = 0;

const phone = () => innerWidth < 700;
const perPage = () => (phone() ? 24 : Math.min(Number(inputs.density.value) || 64, columnsFor.most(wall.clientWidth, room())));

function room() { return Math.max(260, innerHeight - wall.getBoundingClientRect().top - scrollY - (document.fullscreenElement ? 8 : 40)); }

let wished = false; // the person herself asked for other beds: nothing to keep in its place
function ask() {
  const wish = {
    ward: inputs.ward.value, order: inputs.order.checked || phone() ? "alarm" : "place", alarmed: inputs.only.checked, start, count: perPage(),
  };
  want({ wall: wish, ward: inputs.ward.value });
}

// ---------------------------------------- tiles

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const tile = tiles.get(entry.target.dataset.device);
    if (tile) tile.sweep.visible = entry.isIntersecting;
  }
  tellView();
}, { rootMargin: "120px" });

const sized = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const tile = tiles.get(entry.target.closest("[data-tile]").dataset.device);
    tile?.sweep.resize();
    tile?.refit();
  }
});

let toldView = "";
function tellView() {
  const view = document.hidden ? [] : [...tiles.values()].filter((tile) => tile.sweep.visible && tile.source && !tile.element.hidden).map((tile) => tile.source).sort();
  if (view.join() === toldView) return;
  toldView = view.join();
  want({ view });
}

function tileOf(id) {
  let tile = tiles.get(id);
  if (!tile) {
    const element = document.getElementById("bed").content.firstElementChild.cloneNode(true);
    element.dataset.device = id;
    wall.append(element);
    tile = new Tile(element, id);
    tile.sweep.show(inputs.second.value);
    tiles.set(id, tile);
    seen.observe(element);
    sized.observe(element.querySelector(".bed-trace"));
  }
  return tile;
}

function drop(id) {
  const tile = tiles.get(id);
  if (!tile) return;
  seen.unobserve(tile.element);
  tile.element.remove();
  tiles.delete(id);
  if (bySource.get(tile.source) === tile) bySource.delete(tile.source);
}

function show(bed) {
  const tile = tileOf(bed.id);
  const before = tile.source;
  tile.show(bed, siteNow());
  if (tile.source !== before || !bySource.has(tile.source)) {
    if (bySource.get(before) === tile) bySource.delete(before);
    if (tile.source) bySource.set(tile.source, tile);
    tellView();
  }
}

// ---------------------------------------- the page of the wall

function layout() {
  const count = page.ids.length;
  if (!count) return;
  if (phone()) { wall.style.setProperty("--columns", "1"); wall.style.setProperty("--tile", "152px"); return; }
  // A page that is not full keeps the grid of a full one: tiles do not jump in size from page to page.
  const shown = page.total > perPage() ? perPage() : count;
  const chosen = Number(inputs.density.value) || 0;
  const { columns, height } = columnsFor(chosen || shown, wall.clientWidth, room());
  wall.style.setProperty("--columns", String(columns));
  wall.style.setProperty("--tile", `${height}px`);
}

const KEYS_MS = 3000; // until it is looked again whether somebody goes by keys
const held = watch(wall);
let waiting = 0;

/** For how long the order has to wait, ms: for who goes by keys, until she leaves; for who points, until she rests. */
function heldFor() {
  if (wished) return 0;
  if (wall.querySelector(":focus-visible")) return KEYS_MS;
  return held();
}

function arrange() {
  // A person who is on a tile keeps it under her fingers, or she would acknowledge another bed's alarm: the order waits,
  // and what leaves the wall leaves an empty place.
  const ids = page.ids.filter((id) => beds.has(id));
  const gone = [...tiles.keys()].filter((id) => !page.ids.includes(id));
  const present = [...wall.children].map((child) => child.dataset.device);
  const ms = heldFor();
  clearTimeout(waiting);
  if (present.join() === ids.join() || ms <= 0) {
    for (const id of gone) { drop(id); beds.delete(id); }
    if (present.join() !== ids.join()) for (const id of ids) wall.append(tileOf(id).element);
    for (const id of ids) tileOf(id).element.style.visibility = "";
  } else {
    for (const id of ids) tileOf(id).element.style.visibility = "";
    for (const id of gone) tiles.get(id).element.style.visibility = "hidden";
    waiting = setTimeout(arrange, ms);
  }
  for (const element of wall.children) element.tabIndex = element.contains(document.activeElement) || (!wall.contains(document.activeElement) && element === wall.firstElementChild) ? 0 : -1;
  layout();
  const site = page.ids.includes(SITE) ? 1 : 0; // what the site itself signals is no bed
  choice("bed-count").textContent = t(page.alarmed - site ? "bed.count_alarmed" : "bed.count", { n: page.total - site, m: page.alarmed - site });
  choice("waiting").hidden = true;
  choice("empty").hidden = page.total > 0 || inputs.only.checked || Boolean(inputs.ward.value);
  choice("none").hidden = page.total > 0 || !choice("empty").hidden;
  const many = page.total > page.ids.length;
  choice("pages").hidden = !many;
  if (many) {
    const count = perPage();
    choice("page-label").textContent = t("bed.page", { n: Math.floor(page.start / count) + 1, m: Math.ceil(page.total / count) });
    choice("earlier").disabled = page.start === 0;
    choice("later").disabled = page.start + page.ids.length >= page.total;
  }
}

function takeWards(wards) {
  const select = inputs.ward;
  const key = JSON.stringify(wards);
  if (select.dataset.key === key) return;
  select.dataset.key = key;
  const chosen = select.value || select.dataset.wanted || "";
  const options = [["", t("bed.all_wards")], ...wards.filter((ward) => ward.name).map((ward) => [ward.name, ward.alarmed ? `${ward.name} (${ward.alarmed} !)` : ward.name])];
  if (chosen && !options.some(([name]) => name === chosen)) options.push([chosen, chosen]);
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
  select.closest("label").hidden = options.length < 2;
}

function takeWall({ detail }) {
  page = detail;
  start = detail.start;
  takeWards(detail.wards);
  arrange();
  wished = false;
}

function takeBeds({ detail }) {
  let fresh = false;
  for (const id of detail.gone) { beds.delete(id); drop(id); }
  for (const bed of detail.beds) {
    if (!page.ids.includes(bed.id)) continue;
    fresh ||= !tiles.has(bed.id);
    beds.set(bed.id, bed);
    show(bed);
  }
  if (fresh || !wall.children.length) arrange();
}

/** A transition comes before the next numerics: show it at once. */
function takeAlarm({ detail: { alarm } }) {
  const bed = beds.get(alarm.bed);
  if (!bed) return;
  bed.alarms = bed.alarms.filter((one) => one.id !== alarm.id);
  if (!alarm.ended) bed.alarms.push(alarm);
  bed.alarms.sort(alarmOrder);
  tiles.get(bed.id)?.alarms(bed.alarms);
}

// ---------------------------------------- keys

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => { /* refused by the browser: the page stays as it is */ });
}

function turn(pages) {
  const next = start + pages * perPage();
  if (next < 0 || next >= page.total) return;
  start = next;
  wished = true;
  ask();
}

function move(from, dx, dy) {
  const all = [...wall.children];
  const columns = getComputedStyle(wall).gridTemplateColumns.split(" ").length;
  const to = all[all.indexOf(from) + dx + dy * columns];
  if (!to) return;
  for (const element of all) element.tabIndex = element === to ? 0 : -1;
  to.focus();
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const element = event.target.closest?.("[data-tile]");
  const tile = element && tiles.get(element.dataset.device);
  const pressed = event.key.toLowerCase();
  if (ARROWS[event.key] && tile) move(element, ...ARROWS[event.key]);
  else if (ARROWS[event.key] && wall.firstElementChild) (wall.querySelector('[tabindex="0"]') ?? wall.firstElementChild).focus();
  else if (event.key === "Enter" && event.target === element) location.assign(`/beds/${encodeURIComponent(tile.id)}`);
  else if (pressed === "a" && tile) tile.acknowledge();
  else if (pressed === "p" && tile) tile.pause(siteNow());
  else if (pressed === "f") fullScreen();
  else if (pressed === "o") { inputs.order.checked = !inputs.order.checked; inputs.order.dispatchEvent(new Event("change")); }
  else if (pressed === "[" || event.key === "PageUp") turn(-1);
  else if (pressed === "]" || event.key === "PageDown") turn(1);
  else if (event.key === "Escape" && tile) element.blur();
  else return;
  event.preventDefault();
}

function remember(input, name, wanted) {
  const kept = wanted ?? localStorage.getItem(name) ?? "";
  if (input.type === "checkbox") input.checked = kept === "1";
  else if ([...input.options].some((option) => option.value === kept)) input.value = kept;
  else if (kept) { input.append(new Option(kept, kept, false, true)); input.dataset.wanted = kept; }
  input.addEventListener("change", () => {
    localStorage.setItem(name, input.type === "checkbox" ? (input.checked ? "1" : "0") : input.value);
    start = 0;
    wished = true;
    ask();
  });
}

ready.then(() => {
  const address = new URLSearchParams(location.search);
  remember(inputs.order, "alarms-first", address.get("alarms") === "first" ? "1" : undefined);
  remember(inputs.only, "alarms-only");
  remember(inputs.ward, "ward", address.get("ward") ?? undefined);
  remember(inputs.density, "density", address.get("beds") ?? undefined);
  remember(inputs.second, "second-wave", address.get("wave") ?? undefined);
  const second = () => { for (const tile of tiles.values()) tile.sweep.show(inputs.second.value); want({ waves: inputs.second.value ? [inputs.second.value] : [] }); };
  inputs.second.addEventListener("change", second);
  second();
  choice("fullscreen").addEventListener("click", fullScreen);
  choice("earlier").addEventListener("click", () => turn(-1));
  choice("later").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", key);
  link.addEventListener("wall", takeWall);
  link.addEventListener("beds", takeBeds);
  link.addEventListener("alarm", takeAlarm);
  link.addEventListener("trace", ({ detail }) => {
    const frame = readFrame(detail);
    if (frame) bySource.get(frame.source)?.sweep.take(frame, performance.now());
  });
  ask();
  let resized = 0;
  const again = () => { clearTimeout(resized); resized = setTimeout(() => { ask(); layout(); }, 120); };
  addEventListener("resize", again);
  document.addEventListener("fullscreenchange", again);
  // Banners take some of the room: no bed may slip below the fold because of them.
  const banners = new ResizeObserver(() => { if (page.ids.length) again(); });
  for (const banner of document.querySelectorAll(".banner")) banners.observe(banner);
  document.addEventListener("theme", () => { for (const tile of tiles.values()) tile.sweep.redraw(); });
  document.addEventListener("visibilitychange", tellView);
  setInterval(() => { for (const tile of tiles.values()) tile.ageing(siteNow()); }, 1000);
  let drawn = 0;
  requestAnimationFrame(function draw(now) {
    // A pen that moves by a pixel and a half needs no more pictures than that: 64 small traces cost a third less. Without
    // a live link the pens stand still: a moving trace would say that it is live.
    const pens = tiles.size > 16 ? 1500 / (25 * (tiles.values().next().value?.sweep.mm ?? 3)) : 0;
    if (state === "live" && now - drawn >= pens - 4) {
      drawn = now;
      for (const tile of tiles.values()) tile.sweep.frame(now);
    }
    requestAnimationFrame(draw);
  });
});
