// The list of alarms: acknowledging and pausing by click and by key. The rows come from the console (refresh.js).

import { acknowledge, busy, mayAct, pause } from "./actions.js";

const part = document.getElementById("part-active");
const rows = () => [...part.querySelectorAll("[data-alarm-row]")];

function act(row, what) {
  const { alarmRow, bed, waiting, paused } = row.dataset;
  if (!mayAct || waiting !== "1") return;
  const button = row.querySelector(`[data-${what}]`);
  if (what === "acknowledge") busy(button, () => acknowledge(bed, [alarmRow]));
  else busy(button, () => pause(bed, { alarm: alarmRow, seconds: paused === "1" ? 0 : 120 }));
}

part.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const row = event.target.closest("[data-alarm-row]");
  if (!button || !row) return;
  act(row, "acknowledge" in button.dataset ? "acknowledge" : "pause");
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const list = rows();
  const here = list.indexOf(document.activeElement.closest?.("[data-alarm-row]"));
  const key = event.key.toLowerCase();
  const step = { j: 1, arrowdown: 1, k: -1, arrowup: -1 }[key];
  if (step && list.length) list[Math.max(0, Math.min(list.length - 1, here + step))].querySelector(".alarm-link").focus();
  else if (key === "a" && here >= 0) act(list[here], "acknowledge");
  else if (key === "p" && here >= 0) act(list[here], "pause");
  else return;
  event.preventDefault();
});
