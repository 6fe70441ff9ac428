// What every page has: the link, times, refreshing, the alarm summary in the header, announcements, menus.

import { link, leave } from "./link.js";
import { t, ready, alarmText } from "./texts.js";
import { localise } from "./times.js";
import "./preferences.js";
import "./refresh.js";
import "./alarmsystem.js";

localise(document);

const summary = document.getElementById("alarm-summary");
const high = document.getElementById("announce-high");
const polite = document.getElementById("announce");
let summaryKey = "";

function summarise({ detail }) {
  const key = JSON.stringify([detail.alarms, detail.acknowledged]);
  if (!summary || key === summaryKey) return;
  summaryKey = key;
  const tags = Object.entries(detail.alarms).filter(([, n]) => n).map(([priority, n]) => {
    const tag = document.createElement("span");
    tag.className = `alarm-tag alarm-${priority}`;
    const name = document.createElement("span");
    name.className = "tag-word";
    name.textContent = t(`priority.${priority}`);
    tag.append(String(n), name);
    return tag;
  });
  summary.replaceChildren(...tags);
  summary.hidden = tags.length === 0;
  inPhase(summary);
}

/** All alarms of one priority flash together: a wall that flickers out of step cannot be read. */
export function inPhase(element) {
  for (const animation of element.getAnimations({ subtree: true })) {
    if (animation.animationName?.startsWith("flash-")) animation.startTime = 0;
  }
}

function announce({ detail: { alarm } }) {
  if (alarm.ended || alarm.acknowledged || !alarm.present) return;
  const text = t("live.announce", { bed: alarm.label || alarm.bed, alarm: alarmText(alarm) });
  (alarm.priority === "high" ? high : polite).textContent = text;
}

/** Say something briefly at the lower edge. */
export function toast(text) {
  const box = document.getElementById("toast");
  box.textContent = text;
  box.hidden = false;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => { box.hidden = true; }, 6000);
}

ready.then(() => {
  link.addEventListener("tick", summarise);
  link.addEventListener("alarm", announce);
  document.addEventListener("refreshed", ({ detail }) => inPhase(detail));
  inPhase(document.body);
});

document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
});

for (const form of document.querySelectorAll("form[action='/logout']")) form.addEventListener("submit", leave);
