// What every page has: the link, times, refreshing, the alarm summary in the header, announcements, menus.

import { link, leave } from "./link.js";
import { t, ready, alarmText } from "./texts.js";
import { localise, zone } from "./times.js";
import "./preferences.js";
import "./refresh.js";
import "./alarmsystem.js";
import "./flash.js";

localise(document);

const summary = document.getElementById("alarm-summary");
const high = document.getElementById("announce-high");
const polite = document.getElementById("announce");
const MARKS = { high: "!!!", medium: "!!", low: "!" };
let summaryKey = "";

function summarise({ detail }) {
  const key = JSON.stringify([detail.alarms, detail.acknowledged]);
  if (!summary || key === summaryKey) return;
  summaryKey = key;
  const tags = Object.entries(detail.alarms).filter(([, n]) => n).map(([priority, n]) => {
    const tag = document.createElement("span");
    tag.className = `alarm-tag alarm-${priority}`;
    const part = (kind, text) => Object.assign(document.createElement("span"), { className: kind, textContent: text });
    // Marks, number and word: whoever does not see the colour, or has room for no word, reads the marks.
    const marks = part("tag-marks", MARKS[priority]);
    marks.setAttribute("aria-hidden", "true");
    tag.append(marks, String(n), part("tag-word", t(`priority.${priority}`)));
    return tag;
  });
  summary.replaceChildren(Object.assign(document.createElement("span"), { className: "sr", textContent: summary.dataset.name }), ...tags);
  summary.hidden = tags.length === 0;
}

function announce({ detail: { alarm } }) {
  if (alarm.ended || alarm.acknowledged || !alarm.present) return;
  const text = t("live.announce", { bed: alarm.label || alarm.bed, alarm: alarmText(alarm) });
  (alarm.priority === "high" ? high : polite).textContent = text;
}

/** Say something briefly at the lower edge. What failed is said at once and stays longer. */
export function toast(text, { failed = false } = {}) {
  const box = document.getElementById("toast");
  box.setAttribute("role", failed ? "alert" : "status");
  box.classList.toggle("toast-failed", failed);
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { box.hidden = true; }, failed ? 12000 : 6000);
}

// What scrolls sideways can be reached and scrolled by keys, and only then.
const scrollers = new ResizeObserver((entries) => {
  for (const { target } of entries) { if (target.scrollWidth > target.clientWidth) target.tabIndex = 0; else target.removeAttribute("tabindex"); }
});
const scrolled = (root) => { for (const box of root.querySelectorAll(".scroll")) scrollers.observe(box); };
scrolled(document);
document.addEventListener("refreshed", ({ detail }) => scrolled(detail));

const foot = document.querySelector("[data-zone]");
if (foot) { foot.textContent = foot.dataset.zone.replace("{zone}", zone()); foot.hidden = false; }

ready.then(() => {
  link.addEventListener("tick", summarise);
  link.addEventListener("alarm", announce);
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
});

for (const form of document.querySelectorAll("form[action='/logout']")) form.addEventListener("submit", leave);
