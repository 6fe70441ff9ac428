// Texts in the reader's language. Responsible for loading the catalogue's part for scripts and filling in values.

let catalogue = {};

/** Load the catalogue named by the page. Until then, and if it cannot be loaded, keys are shown as they are. */
export const ready = fetch(document.documentElement.dataset.texts)
  .then((answer) => (answer.ok ? answer.json() : {}))
  .then((found) => { catalogue = found; })
  .catch(() => { /* the page works without; the link's banner tells that the console is away */ });

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

const readable = (args) => ({ ...args, ...("parameter" in args ? { parameter: word("parameter", args.parameter) } : {}), ...("unit" in args ? { unit: unitText(args.unit) } : {}) });

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

/** A duration in milliseconds as a person says it. */
export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return t("time.seconds", { n: seconds });
  if (seconds < 7200) return t("time.minutes", { n: Math.floor(seconds / 60) });
  return t("time.hours", { n: Math.floor(seconds / 3600) });
}

/** A reason as a role gave it: its known beginning in the reader's language, the particulars as they are. */
export function reasonText(text) {
  const [head, ...rest] = (text ?? "").split(": ");
  const key = `reason.${head.toLowerCase().replaceAll(" ", "_").replaceAll("'", "")}`;
  return has(key) ? [t(key), ...rest].join(": ") : text ?? "";
}
