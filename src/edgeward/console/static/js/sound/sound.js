// The sound of a page: what it signals, whether it may, who paused it. Loaded on the pages from which patients are
// watched. Of several tabs of one browser only one sounds.

import { link, pulse, siteNow } from "../link.js";
import { t, ready } from "../texts.js";
import { failing } from "../alarmsystem.js";
import { loudest } from "./burst.js";
import { Player } from "./player.js";
import { watch } from "../still.js";

const bar = document.getElementById("sound-bar");
const panel = document.getElementById("sound-panel");
const button = document.getElementById("sound-state");
const find = (name) => panel.querySelector(`[data-${name}]`);
const player = new Player({ onState: show });
const held = watch(window);
let wanted = localStorage.getItem("sound") !== "off";
let mine = !navigator.locks; // this tab is the one that sounds
let asked = false;
let tick = null;

/** What this page would sound now; for tests and for the panel. */
export const now = () => (tick || failing() ? loudest({ sound: tick?.sound ?? "", failing: failing() }) : "");

function hold() {
  if (asked || !navigator.locks || player.state !== "running") return;
  asked = true; // a tab that may not sound must not hold the place of one that may
  navigator.locks.request("edgeward-sound", () => { mine = true; show(); return new Promise(() => {}); });
}

function sound() { player.sound(wanted && mine ? now() : ""); }

function clock(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}

let told = "";
function show() {
  player.look();
  hold();
  sound();
  const blocked = wanted && player.state !== "running";
  // The press that lets the page sound ends the bar, and is meant for something else: that stays where it is pressed.
  bar.style.visibility = blocked ? "" : "hidden";
  if (blocked || held() <= 0) bar.hidden = !blocked;
  if (blocked) bar.querySelector("p").textContent = bar.dataset[player.state === "stalled" ? "stalled" : "blocked"];
  const paused = tick?.paused ?? 0;
  const kind = !wanted ? "off" : blocked ? "blocked" : !mine ? "other" : paused ? "paused" : "on";
  const text = kind === "paused" ? t("sound.paused", { n: paused, time: clock(tick.paused_until - siteNow()) }) : t(`sound.is.${kind}`);
  const key = kind + text + now();
  if (key === told) return;
  told = key;
  button.dataset.kind = kind;
  button.querySelector(".word").textContent = text;
  button.title = text;
  find("now").textContent = now() ? t(`sound.now.${now()}`) : t("sound.now.nothing");
  document.documentElement.dataset.sound = player.state;
}

function open(on) { panel.hidden = !on; button.setAttribute("aria-expanded", String(on)); if (on) find("on").focus(); }

ready.then(() => {
  button.hidden = false;
  const on = find("on");
  on.checked = wanted;
  on.addEventListener("change", () => { wanted = on.checked; localStorage.setItem("sound", wanted ? "on" : "off"); player.enable(); show(); });
  const volume = find("volume");
  volume.value = localStorage.getItem("volume") ?? "100";
  const louder = () => { player.louder(Math.max(0.25, Number(volume.value) / 100)); localStorage.setItem("volume", volume.value); };
  volume.addEventListener("input", louder);
  player.volume = Math.max(0.25, Number(volume.value) / 100);
  for (const one of panel.querySelectorAll("[data-test]")) one.addEventListener("click", () => { player.enable(); player.test(one.dataset.test); });
  button.addEventListener("click", () => open(panel.hidden));
  panel.addEventListener("keydown", (event) => { if (event.key === "Escape") { open(false); button.focus(); } });
  document.addEventListener("click", (event) => { if (!panel.hidden && !panel.contains(event.target) && !button.contains(event.target)) open(false); });
  bar.querySelector("button").addEventListener("click", () => player.enable());
  // Any click or key is leave enough for the browser.
  for (const name of ["pointerdown", "keydown"]) addEventListener(name, () => { if (wanted && player.state !== "running") player.enable(); }, { capture: true });
  link.addEventListener("tick", ({ detail }) => { tick = detail; show(); });
  link.addEventListener("failure", show);
  setInterval(show, 250);
  player.enable();
  show();
});

export { player };
