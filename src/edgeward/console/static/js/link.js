// The live link to the console: one WebSocket per page, and the truth about whether the page is live.
// Responsible for connecting, reconnecting, and the state shown; not for what the messages mean.

import { afterPress } from "./still.js";
import { localTime } from "./times.js";

const SILENCE_MS = 2300; // the console speaks twice a second; the promise is that 3 s of silence never look live
const GIVE_UP_MS = 6000;
const LOGOUT_MS = 60_000; // a page that hears that its login is over so long after another logged out: that was why
const root = document.documentElement;
export const LOGIN = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
/** Whether this is a page from which patients are watched: it sounds. */
export const watching = document.getElementById("sound-state") !== null;
const needsBeds = document.getElementById("main")?.dataset.needs === "beds";

/** Events: "state" and every message by its key ("tick", "beds", "alarm", "item", "finding", ...), "trace". */
export const link = new EventTarget();

let socket = null;
let heardAt = 0;
let attempt = 0;
let since = null;
let startedAt = performance.now();
let wish = {};
let lastTick = null;
let lastTickAt = 0;
let bedsAt = 0;
let leaving = false;
let ended = false; // the login has run out
let loggedOutAt = -Infinity; // when a page of this browser began to log out
let ahead = 0; // the site's clock minus this browser's, milliseconds

/** What the site's clock shows now: times of alarms and pauses are the site's. */
export const siteNow = () => Date.now() + ahead;

export let state = "connecting";

function emit(name, detail) { link.dispatchEvent(new CustomEvent(name, { detail })); }

/** Tell the console what this page wants; repeated after every reconnection. */
export function want(part) {
  wish = { ...wish, ...part };
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(wish));
}

function connect() {
  if (leaving) return;
  const mine = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
  mine.binaryType = "arraybuffer";
  socket = mine;
  startedAt = performance.now();
  mine.onopen = () => { if (Object.keys(wish).length) mine.send(JSON.stringify(wish)); };
  mine.onmessage = (event) => {
    if (mine !== socket) return;
    heardAt = performance.now();
    attempt = 0;
    if (typeof event.data !== "string") { emit("trace", event.data); return; }
    const message = JSON.parse(event.data);
    if (message.k === "tick") {
      if (message.build && message.build !== root.dataset.build) { location.reload(); return; }
      if (message.now) ahead = message.now - Date.now();
      lastTick = message;
      lastTickAt = heardAt;
    } else if (message.k === "beds") bedsAt = heardAt;
    emit(message.k, message);
    judge();
  };
  mine.onclose = (event) => {
    if (mine !== socket) return;
    socket = null;
    if (leaving) return;
    if (event.code === 4401) {
      leaving = true;
      // Somebody who logs out wants the page gone. A login that runs out, also while the console is away, must not
      // silence a screen from which patients are watched: it stays, says so, and the alarm system's failure is heard
      // from it until somebody logs in.
      const loggedOut = performance.now() - loggedOutAt < LOGOUT_MS;
      const over = event.reason === "session over" || (event.reason === "log in first" && heardAt);
      if (watching && over && !loggedOut) { ended = true; judge(); } else location.assign(LOGIN);
      return;
    }
    judge();
    attempt += 1;
    setTimeout(connect, Math.min(3000, 200 * 2 ** attempt) * (0.75 + Math.random() / 2));
  };
}

function drop() {
  const old = socket;
  socket = null;
  old?.close();
  connect();
}

function judgeNow(now) {
  if (ended) return "ended";
  if (!heardAt) return now - startedAt > SILENCE_MS || attempt > 1 ? "lost" : "connecting";
  // A closed socket is known at once, but a console that restarts is back within a moment: no flicker for that.
  if (now - heardAt > (socket ? SILENCE_MS : 1000) || (!lastTick)) return "lost";
  if (!lastTick.bus) return "bus";
  if (needsBeds && !lastTick.beds_live && lastTick.beds_age !== null) return "monitor";
  if (needsBeds && bedsAt && now - bedsAt > SILENCE_MS) return "monitor";
  return "live";
}

function judge() {
  const now = performance.now();
  const next = judgeNow(now);
  if (next !== state) {
    if (next === "live") since = null;
    else if (state === "live" || state === "connecting") since = new Date(Date.now() - (heardAt ? now - heardAt : 0));
    state = next;
    root.dataset.link = next;
    show();
    emit("state", next);
    if (next === "live") emit("beds_live", {});
  }
}

// These few words come with the page: that it is not live must not depend on anything that has yet to be fetched.
function show() {
  const chip = document.getElementById("link-chip");
  const banner = document.getElementById("banner");
  if (!chip || !banner) return;
  chip.querySelector(".word").textContent = { live: chip.dataset.live, connecting: chip.dataset.connecting }[state] ?? chip.dataset.notLive;
  const text = state === "lost" && !heardAt ? banner.dataset.unreached : banner.dataset[state];
  if (text) document.getElementById("banner-text").textContent = text.replace("{time}", since ? localTime(since) : "—");
  afterPress("link", () => { banner.hidden = !text; });
  const door = document.getElementById("banner-login");
  door.hidden = state !== "ended";
  door.href = LOGIN;
}

const pages = new BroadcastChannel("edgeward");
pages.onmessage = ({ data }) => { if (data === "logout") loggedOutAt = performance.now(); };

/** This page is about to log out: its socket will be closed, and that is no news; nor to this browser's other pages. */
export function leave() { leaving = true; pages.postMessage("logout"); }

/** The last pulse of the console; null before the first. */
export const pulse = () => lastTick;

/** Age of the last message, milliseconds. */
export const silence = () => (heardAt ? performance.now() - heardAt : Infinity);

setInterval(() => {
  judge();
  const now = performance.now();
  if (socket && now - Math.max(heardAt, startedAt) > GIVE_UP_MS) drop();
}, 200);
addEventListener("online", () => { if (!socket || silence() > SILENCE_MS) drop(); });
addEventListener("pagehide", () => { leaving = true; socket?.close(); });
addEventListener("pageshow", (event) => { if (event.persisted) { leaving = false; heardAt = 0; lastTick = null; connect(); } });
connect();
