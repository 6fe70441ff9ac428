// Whether alarms can reach this screen at all, judged here, because whoever would tell may be what failed. Signals a
// failure within ten seconds (IEC 60601-1-8:2020, 6.11.2.2), and what a screen that slept or was cut off has missed.

import { link, pulse, silence } from "./link.js";
import { afterPress } from "./still.js";
import { t, ready, duration, reasonText } from "./texts.js";
import { localTime } from "./times.js";

const FAIL_MS = 9000; // ten seconds, less what it takes to show it
const MISSED_MS = 10000;
const bar = document.getElementById("alarm-failure");
const missed = document.getElementById("missed");
const opened = performance.now();
let heardAt = 0; // by the clock on the wall: it goes on while a laptop sleeps
let key = "";
let busLostAt = 0;

/** Why alarms may not come: "", "link", "bus", "monitor" or "told" (the monitor says so itself). */
function cause() {
  const heard = Math.min(silence(), performance.now() - opened);
  if (heard > FAIL_MS) return "link";
  const last = pulse();
  if (!last?.alarm_system) return "";
  if (!last.bus) {
    busLostAt ||= performance.now();
    return performance.now() - busLostAt > FAIL_MS - 1000 ? "bus" : "";
  }
  busLostAt = 0;
  if (!last.alarm_system.fails) return "";
  return last.alarm_system.problems.length && last.alarm_system.age < FAIL_MS ? "told" : "monitor";
}

let now = "";
export const failing = () => Boolean(now);

function judge() {
  const next = bar ? cause() : "";
  const last = pulse();
  const age = next === "link" ? silence() : last?.alarm_system?.age ?? 0;
  const slots = { time: Number.isFinite(age) ? duration(age) : "—", problems: (last?.alarm_system?.problems ?? []).map(reasonText).join("; ") };
  const text = next ? bar.dataset[next].replace(/\{(time|problems)\}/g, (_, name) => slots[name]) : "";
  if (text !== key && bar) {
    key = text;
    afterPress("failure", () => { bar.hidden = !next; });
    document.getElementById("alarm-failure-text").textContent = text;
    document.documentElement.toggleAttribute("data-failing", Boolean(next));
  }
  if (next !== now) { now = next; link.dispatchEvent(new CustomEvent("failure", { detail: next })); }
}

/** A message came: if the one before is long ago, this screen has missed that time. */
function hear() {
  const at = Date.now();
  if (heardAt && at - heardAt > MISSED_MS && missed) {
    const text = t("live.missed", { from: localTime(new Date(heardAt)), to: localTime(new Date(at)), time: duration(at - heardAt) });
    missed.querySelector("[data-missed-text]").textContent = text;
    afterPress("missed", () => { missed.hidden = false; });
  }
  heardAt = at;
}

ready.then(() => {
  link.addEventListener("tick", () => { hear(); judge(); });
  missed?.querySelector("button").addEventListener("click", () => { missed.hidden = true; });
  setInterval(judge, 250);
});
