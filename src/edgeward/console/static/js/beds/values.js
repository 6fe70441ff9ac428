// Values of patients for reading: which, in what order, with how many digits. Pure: no page, no clock.
// A value that is stale, invalid or not there is never a number.

import { t, has, unitText, BOUND } from "../texts.js";

export { unitText };

export const NONE = "– –";
const DECIMALS = { temperature: 1, perfusion_index: 1 };

/** Order on the bed page: as people call them out, then the rest. */
export const ORDER = [
  "heart_rate", "pulse_rate", "spo2", "perfusion_index", "respiratory_rate", "etco2", "nibp_systolic", "nibp_diastolic", "nibp_mean",
  "abp_systolic", "abp_diastolic", "abp_mean", "cvp_mean", "temperature", "glucose", "consciousness", "supplemental_oxygen",
];

export const rank = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
export const parameterName = (name) => (has(`parameter.${name}`) ? t(`parameter.${name}`) : name);

/** Text of a number of a parameter. */
export function number(name, value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "—";
  if (name === "consciousness" && has(`consciousness.${value}`)) return t(`consciousness.${value}`);
  if (name === "supplemental_oxygen" && has(`oxygen.${value}`)) return t(`oxygen.${value}`);
  return value.toFixed(DECIMALS[name] ?? 0);
}

/** Text of a value; "> 33" where the device only knows that it is more. */
export const shown = (vital, name = vital.p) => `${BOUND[vital.bound] ?? ""}${number(name, vital.v)}`;

export const isValue = (vital) => Boolean(vital) && vital.v !== null && !vital.stale;

/** Beyond which limit a value is: "▲", "▼" or nothing. The sign that is not a colour. */
export function beyond(vital) {
  if (!isValue(vital)) return "";
  if (vital.high !== null && vital.v > vital.high) return "▲";
  if (vital.low !== null && vital.v < vital.low) return "▼";
  return "";
}

export const byName = (bed) => Object.fromEntries(bed.vitals.map((vital) => [vital.p, vital]));

/** Vital of a name, or what the bed itself says of the heart rate, for a monitor that names no vitals. */
export function heart(bed, vitals) {
  if (vitals.heart_rate) return vitals.heart_rate;
  return { p: "heart_rate", v: bed.hr, stale: bed.stale, low: null, high: null, pr: "", age: bed.age, at: 0, unit: "/min", q: bed.quality, source: bed.source };
}

/** The pressure that a wall shows: the cuff's, else the arterial line's. An invasive one is continuous, so it goes first if live. */
export function pressure(vitals) {
  const kind = isValue(vitals.abp_systolic) || !vitals.nibp_systolic ? "abp" : "nibp";
  const [high, low, mean] = ["systolic", "diastolic", "mean"].map((part) => vitals[`${kind}_${part}`]);
  const worst = [high, low, mean].filter(Boolean).map((vital) => vital.pr).sort((a, b) => severity(a) - severity(b))[0] ?? "";
  const there = isValue(high) || isValue(mean);
  return {
    kind: high || mean ? kind : "nibp", there, pr: worst, at: high?.at ?? mean?.at ?? 0,
    text: there ? `${isValue(high) ? number("", high.v) : "—"}/${isValue(low) ? number("", low.v) : "—"}` : high || mean ? NONE : "",
    sign: [high, low, mean].map(beyond).find(Boolean) ?? "",
  };
}

const SEVERITY = { high: 0, medium: 1, low: 2 };
export const severity = (priority) => SEVERITY[priority] ?? 9;

/** What the early warning score shows: its total, or what the inputs amount to as "≥ n", and how old its oldest one is. */
export function news2(score) {
  if (!score || (score.total === null && Object.keys(score.scores).length === 0)) return { text: "", level: "", age: 0 };
  if (score.total !== null) return { text: String(score.total), level: score.response, age: score.age };
  return { text: `≥${score.at_least}`, level: "", age: score.age };
}
