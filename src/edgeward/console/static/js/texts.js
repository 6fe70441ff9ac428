// Texts in the reader's language. Responsible for loading the catalogue's part for scripts and filling in values.

let catalogue = {};

/** Load the catalogue named by the page. Until then, and if it cannot be loaded, keys are shown as they are. */
export const ready = load(5);

async function load(tries) {
  try {
    const answer = await fetch(document.documentElement.dataset.texts);
    if (answer.ok) { catalogue = await answer.json(); return; }
  } catch { /* the console is away; the link's banner, whose words came with the page, tells so */ }
  const again = new Promise((done) => { setTimeout(() => done(load(tries - 1)), 1000); });
  // Alarms in keys are better than none: after a while the page begins without words, and they come when they can.
  if (tries > 1) await again;
}

function fill(text, values) {
  return text.replace(/\{([a-z_0-9]+)(?::\.(\d)f)?\}/g, (_, name, digits) => {
    const value = values[name];
    if (value === undefined || value === null) return "—";
    return digits !== undefined && typeof value === "number" ? value.toFixed(Number(digits)) : String(value);
  });
}

export const has = (key) => Object.hasOwn(catalogue, key);

export const t = (key, values = {}) => (has(key) ? fill(catalogue[key], values) : key);

/** Text of a code, or the code itself when there are no words for it. */
export const word = (section, code) => (has(`${section}.${code}`) ? t(`${section}.${code}`) : code);

const UNITS = { "/min": "/min", "mm[Hg]": "mmHg", Cel: "°C", "1": "" };

/** UCUM as people read it. */
export const unitText = (unit) => UNITS[unit] ?? unit;

export const BOUND = { below: "< ", above: "> " }; // off the device's scale

const readable = (args) => ({ ...args, ...(args.bound in BOUND ? { value: `${BOUND[args.bound]}${args.value}` } : {}), ...("parameter" in args ? { parameter: word("parameter", args.parameter) } : {}), ...("unit" in args ? { unit: unitText(args.unit) } : {}), ...("reason" in args ? { reason: reasonText(args.reason) } : {}) });

/** What an alarm says; an unknown code is shown as it is, never hidden. */
export function alarmText(alarm) {
  const key = `alarm.${alarm.code}`;
  let text = alarm.code;
  if (has(key)) text = t(key, readable(alarm.args));
  else {
    const details = Object.entries(alarm.args).map(([name, value]) => `${name} ${value}`).join(", ");
    if (details) text = `${alarm.code} (${details})`;
  }
  return alarm.present ? text : t("bed.latched", { alarm: text });
}

const LABELS = { heart_rate: "hr", pulse_rate: "pr", respiratory_rate: "rr", temperature: "temp", spo2: "spo2" }; // as on a tile
const SIGNS = { parameter_high: "▲", parameter_low: "▼", parameter_extreme_high: "▲▲", parameter_extreme_low: "▼▼" };

/** The same in a word or two, for where there is no room; "" if there is none. */
export function alarmShort(alarm) {
  if (!has(`alarm_short.${alarm.code}`)) return "";
  const { parameter } = alarm.args;
  const name = has(`bed.${LABELS[parameter]}`) ? t(`bed.${LABELS[parameter]}`) : parameter ? word("parameter", parameter) : "";
  // The sign goes first: it is what must not be cut off.
  const text = alarm.code in SIGNS ? `${SIGNS[alarm.code]} ${name}` : `${name} ${t(`alarm_short.${alarm.code}`)}`.trim();
  return alarm.present ? text : t("bed.latched", { alarm: text });
}

/** A duration in milliseconds as a person says it. */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return t("time.seconds", { n: seconds });
  if (seconds < 7200) return t("time.minutes", { n: Math.floor(seconds / 60) });
  return t("time.hours", { n: Math.floor(seconds / 3600) });
}

let sayings = null;

/** What roles say, recognised by its English wording; none for an English reader. */
function known() {
  sayings ??= Object.entries(catalogue).filter(([key]) => key.startsWith("from.said.")).map(([key, wording]) => {
    const pattern = wording.split(/\{([a-z]+)\}/).map((part, i) => (i % 2 ? `(?<${part}>.+?)` : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"))).join("");
    return [key.slice(5), new RegExp(`^${pattern}$`, "s")];
  });
  return sayings;
}

/** A reason as a role gave it, in the reader's language as far as its words are known; else as it is. */
export function reasonText(text) {
  for (const [key, pattern] of known()) {
    const said = pattern.exec(text ?? "");
    if (said) return t(key, { ...said.groups, ...(said.groups?.rest ? { rest: reasonText(said.groups.rest) } : {}) });
  }
  const [head, ...rest] = (text ?? "").split(": ");
  const key = `reason.${head.toLowerCase().replaceAll(" ", "_").replaceAll("'", "")}`;
  return has(key) ? [t(key), ...(rest.length ? [reasonText(rest.join(": "))] : [])].join(": ") : text ?? "";
}
