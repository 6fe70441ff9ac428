// The flashing of alarms: 2 Hz for high, 0.6 Hz for medium priority, half of the time on (IEC 60601-1-8:2020, table 2).
// One phase for the whole page, kept as attributes of its root: a wall that flickers out of step cannot be read, and two
// or four changes a second cost a fraction of what an animation of 64 tiles does. Without script everything stays on.

const PERIOD_MS = { high: 500, medium: 1000 / 0.6 };
const root = document.documentElement;

/** Whether a priority is in the dark half of its flash at a time in milliseconds. Pure. */
export const off = (priority, now) => priority in PERIOD_MS && (now % PERIOD_MS[priority]) * 2 >= PERIOD_MS[priority];

function change() {
  const now = performance.now();
  let next = Infinity;
  for (const [priority, period] of Object.entries(PERIOD_MS)) {
    root.toggleAttribute(`data-${priority}-off`, off(priority, now));
    next = Math.min(next, period / 2 - (now % (period / 2)));
  }
  // To the next edge by the clock, not by a count of timers: these come late, and lateness must not add up.
  setTimeout(change, Math.max(1, next + 1));
}
change();
