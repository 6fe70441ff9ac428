// What a person does to alarms: acknowledge and pause. The page changes when the monitor says so, not before: a click is
// not yet an acknowledgement. A failure is said.

import { t } from "./texts.js";
import { toast } from "./main.js";

const csrf = document.querySelector("meta[name=csrf]").content;
export const mayAct = document.documentElement.dataset.acts === "1";

async function post(path, fields, failed) {
  try {
    const answer = await fetch(path, { method: "POST", body: new URLSearchParams(fields), headers: { "x-csrf": csrf, accept: "application/json" } });
    if (answer.ok) return true;
    const problem = await answer.json().catch(() => ({}));
    toast(problem.error ?? t(failed, { reason: answer.status }));
  } catch {
    toast(t("live.acknowledge_unreachable"));
  }
  return false;
}

/** Acknowledge the alarms that the person sees, and no others. */
export function acknowledge(bed, ids) {
  if (!mayAct || !ids.length) return Promise.resolve(false);
  return post(`/beds/${encodeURIComponent(bed)}/acknowledge`, ids.map((id) => ["alarm", id]), "live.acknowledge_failed");
}

/** Pause the sound of a bed, or of one alarm of it, for two minutes; 0 seconds ends the pause. */
export function pause(bed, { alarm = "", seconds = 120 } = {}) {
  if (!mayAct) return Promise.resolve(false);
  return post(`/beds/${encodeURIComponent(bed)}/pause`, [["alarm", alarm], ["seconds", String(seconds)]], "live.pause_failed");
}
