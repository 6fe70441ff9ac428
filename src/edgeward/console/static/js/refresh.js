// Keeps the server-rendered parts of a page fresh: when something happened, or after a while, the page is fetched again
// and the parts that changed are put in place. Responsible for not disturbing a person who types, reads or has focus.

import { link, LOGIN, watching } from "./link.js";
import { localise } from "./times.js";

const MIN_MS = 350; // many events at once cost one refresh
const main = document.getElementById("main");
const events = (main?.dataset.refresh ?? "").split(" ").filter(Boolean);
const every = Number(main?.dataset.every ?? 0);
const shown = new Map();

let pending = 0;
let running = false;
let again = false;
let lastAt = performance.now();

const hashes = new WeakMap(); // row -> hash of its source, taken before times are written in local time

for (const part of document.querySelectorAll("[data-part]")) {
  shown.set(part.id, part.innerHTML);
  for (const row of part.querySelectorAll("[data-key]")) hashes.set(row, hash(row.outerHTML));
}

function replaceKeyed(list, fresh) {
  const old = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const child of [...fresh.children]) {
    const had = old.get(child.dataset.key);
    const source = hash(child.outerHTML);
    old.delete(child.dataset.key);
    let row = had;
    if (!had || hashes.get(had) !== source) {
      const keep = had?.querySelector("img.thumb");
      const image = child.querySelector("img.thumb");
      if (keep && image && keep.getAttribute("src") === image.getAttribute("src")) image.replaceWith(keep);
      hashes.set(child, source);
      localise(child);
      if (!had) child.classList.add("fresh");
      row = child;
    }
    if (row !== had && had) {
      const focused = had.contains(document.activeElement);
      if (place === had) place = row;
      had.replaceWith(row);
      if (focused) row.querySelector("a, button")?.focus({ preventScroll: true });
    }
    // A row that is in its place already is not touched: moving it would take the focus from it.
    if (row === place) place = place.nextElementSibling;
    else list.insertBefore(row, place);
  }
  for (const gone of old.values()) gone.remove();
}

function hash(text) {
  let value = 5381;
  for (let i = 0; i < text.length; i += 1) value = ((value * 33) ^ text.charCodeAt(i)) | 0;
  return String(value);
}

function put(part, fresh) {
  const html = fresh.innerHTML;
  if (shown.get(part.id) === html) return;
  const list = part.querySelector("[data-keyed], ul.latest");
  const freshList = fresh.querySelector("[data-keyed], ul.latest");
  const focused = part.contains(document.activeElement);
  if (list && freshList) replaceKeyed(list, freshList);
  else if (focused) {
    // Keep the place of a keyboard user: the same link is focused again after the change.
    const href = document.activeElement.getAttribute("href");
    part.replaceChildren(...fresh.childNodes);
    if (href) part.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus({ preventScroll: true });
  } else part.replaceChildren(...fresh.childNodes);
  localise(part);
  shown.set(part.id, html);
  document.dispatchEvent(new CustomEvent("refreshed", { detail: part }));
}

async function refresh() {
  if (running) { again = true; return; }
  running = true;
  lastAt = performance.now();
  try {
    const answer = await fetch(location.href.split("#")[0], { headers: { "x-fragment": "1" }, redirect: "error" });
    if (answer.status === 401) { if (!watching) location.assign(LOGIN); return; } // from a watching page the link tells it
    if (!answer.ok) { main.dataset.refreshFailed = String(answer.status); return; }
    delete main.dataset.refreshFailed;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (page.documentElement.dataset.build !== document.documentElement.dataset.build) { location.reload(); return; }
    for (const part of document.querySelectorAll("[data-part]")) {
      const fresh = page.getElementById(part.id);
      if (fresh) put(part, fresh);
    }
    if (main.dataset.item) document.dispatchEvent(new CustomEvent("page-refreshed", { detail: page }));
  } catch (error) {
    // The link's banner already says that the console is away.
    if (!(error instanceof TypeError)) throw error;
  } finally {
    running = false;
    if (again) { again = false; schedule(); }
  }
}

function schedule() {
  if (pending || document.hidden) return;
  pending = setTimeout(() => { pending = 0; refresh(); }, Math.max(0, MIN_MS - (performance.now() - lastAt)) + 30);
}

if (events.length || every) {
  for (const name of events) {
    link.addEventListener(name, ({ detail }) => {
      if (main.dataset.item && detail?.item && detail.item !== main.dataset.item) return;
      schedule();
    });
  }
  link.addEventListener("resync", schedule);
  link.addEventListener("state", ({ detail }) => { if (detail === "live") schedule(); });
  if (every) setInterval(() => { if (!["lost", "ended"].includes(document.documentElement.dataset.link) && performance.now() - lastAt >= every) schedule(); }, Math.min(every, 1000));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) schedule(); });
}
