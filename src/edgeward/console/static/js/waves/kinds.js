// The traces that a bed page knows: their order from top to bottom and their share of its height. Colours are in tokens.css.

export const ORDER = ["ecg", "pleth", "pleth_red", "pleth_infrared", "abp", "pap", "cvp", "icp", "respiration", "co2"];
export const rank = (kind) => { const at = ORDER.indexOf(kind); return at < 0 ? ORDER.length : at; };
export const weight = (kind) => (kind === "ecg" ? 1.45 : 1);
export const COLOURS = { pleth_red: "pleth", pleth_infrared: "pleth" };
export const colour = (kind) => `--wave-${COLOURS[kind] ?? (ORDER.includes(kind) ? kind : "respiration")}`;

/** Leads in the order in which they are written, then the rest by name. */
export const LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"];
export const STANDARD = ["I", "II", "V1", "V2", "V3", "V4", "V5", "V6"]; // the other four follow from I and II
export const byLead = (a, b) => place(a) - place(b) || (a < b ? -1 : a > b ? 1 : 0);
const place = (name) => { const at = LEADS.indexOf(name); return at < 0 ? LEADS.length : at; };

/** Whether these leads make a 12-lead view. */
export const isTwelve = (names) => STANDARD.every((name) => names.includes(name));

/** Rows of the 12-lead view: the pen goes through the leads of a row one after another, as on paper. */
export const rowsOf = (columns) => (columns === 4
  ? [["I", "aVR", "V1", "V4"], ["II", "aVL", "V2", "V5"], ["III", "aVF", "V3", "V6"], ["II"]]
  : [["I", "V1"], ["II", "V2"], ["III", "V3"], ["aVR", "V4"], ["aVL", "V5"], ["aVF", "V6"], ["II"]]);
