// Auditory alarm signals after IEC 60601-1-8:2020, 6.3.3.1, tables 3 and 4. Pure: seconds and hertz, no sound.
//
//              pulses  spacing                                        pulse duration  between bursts
//   high       10      x, x, 2x + td, x, 0.35-1.3 s, x, x, 2x + td, x  75-200 ms       2.5-15 s
//   medium     3       y, y                                           125-250 ms      2.5-30 s
//   low        2       y                                              125-250 ms      > 15 s
//
// x is 50-125 ms, y 125-250 ms; a spacing is from the end of one pulse (90 %) to the beginning of the next. Pulse
// frequency 150-1000 Hz; at least four harmonics between 300 and 4000 Hz within 15 dB of it; rise 10-40 % of the
// duration, fall no longer than spacing minus rise.

const X = 0.1;
const Y = 0.2;
const LONG = 0.15; // pulse of high priority
const SHORT = 0.2; // pulse of the others
const C = 370;
const E = 466;
const HIGH_C = 740;

/** Amplitudes of the harmonics, the first is the pulse frequency: 0, -2, -4, -6, -8, -10, -12 dB. */
export const HARMONICS = [1, 0.79, 0.63, 0.5, 0.4, 0.32, 0.25];

/** Part of a pulse's duration that rising from 10 to 90 % takes; falling takes as long. */
export const RISE = 0.2;

const SPACES_HIGH = [X, X, 2 * X + LONG, X, 0.5, X, X, 2 * X + LONG, X];

const FORMS = {
  high: { duration: LONG, spaces: SPACES_HIGH, notes: Array(10).fill(C), every: 3, volume: 1 },
  medium: { duration: SHORT, spaces: [Y, Y], notes: [C, C, C], every: 6, volume: 0.8 },
  low: { duration: SHORT, spaces: [Y], notes: [E, C], every: 20, volume: 0.6 },
  // The alarm system itself: of medium priority, in notes of its own (falling), so that it is not taken for a patient.
  failure: { duration: SHORT, spaces: [Y, Y], notes: [HIGH_C, C, C], every: 4, volume: 0.9 },
};

/** Pulses of one burst: beginning, duration (both of what is above 90 %), frequency, volume. */
export function burst(kind) {
  const form = FORMS[kind];
  let at = 0;
  return form.notes.map((frequency, i) => {
    const pulse = { at, duration: form.duration, frequency, volume: form.volume };
    at += form.duration + (form.spaces[i] ?? 0);
    return pulse;
  });
}

/** Seconds from the beginning of a burst to the beginning of the next. */
export function period(kind) {
  const pulses = burst(kind);
  const last = pulses[pulses.length - 1];
  return last.at + last.duration + FORMS[kind].every;
}

const URGENCY = ["high", "failure", "medium", "low"];

/** What is to sound: one thing at a time, the most urgent (6.3.3.2). A failing alarm system goes before what it still tells of medium. */
export function loudest({ sound, failing }) {
  return URGENCY.find((kind) => (kind === "failure" ? failing : kind === sound)) ?? "";
}
