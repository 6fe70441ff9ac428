// What a person does to alarms: acknowledge and pause. The page changes when the monitor says so, not before: a click is
// not yet an acknowledgement. A failure is said, also when no answer comes at all.

import { t } from "./texts.js";
import { toast } from "./main.js";

const PATIENCE_MS = 6000; // a console that stands still answers nothing; the person must not wait for it
const csrf = document.querySelector("meta[name=csrf]").content;
export const mayAct = document.documentElement.dataset.acts === "1";

async function post(path, fields, { failed, unreachable }) {
  try {
    const answer = await fetch(path, {
      method: "POST", body: new URLSearchParams(fields), headers: { "x-csrf": csrf, accept: "application/json" }, signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (answer.ok) return true;
    const problem = await answer.json().catch(() => ({}));
    toast(answer.status === 401 ? t("live.login_ended") : problem.error ?? t(failed, { reason: answer.status }), { failed: true });
  } catch (error) {
    // Without an answer nobody knows whether it was done: the alarm itself will show it.
    toast(t(error.name === "TimeoutError" ? "live.no_answer" : unreachable), { failed: true });
  }
  return false;
}

/** Acknowledge the alarms that the person sees, and no others. */
export function acknowledge(bed, ids) {
  if (!mayAct || !ids.length) return Promise.resolve(false);
  return post(`/beds/${encodeURIComponent(bed)}/acknowledge`, ids.map((id) => ["alarm", id]), { failed: "live.acknowledge_failed", unreachable: "live.acknowledge_unreachable" });
}

/** Pause the sound of a bed, or of one alarm of it, for two minutes; 0 seconds ends the pause. */
export function pause(bed, { alarm = "", seconds = 120 } = {}) {
  if (!mayAct) return Promise.resolve(false);
  return post(`/beds/${encodeURIComponent(bed)}/pause`, [["alarm", alarm], ["seconds", String(seconds)]], { failed: "live.pause_failed", unreachable: "live.pause_unreachable" });
}

/** Let a button rest while its deed is under way: seen at once, and not done twice. */
export async function busy(button, deed) {
  if (!button) return deed();
  if (button.getAttribute("aria-busy") === "true") return false;
  button.setAttribute("aria-busy", "true");
  try { return await deed(); } finally { button.removeAttribute("aria-busy"); }
}
