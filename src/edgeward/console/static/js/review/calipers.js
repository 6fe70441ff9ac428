// The arithmetic of a strip and its calipers: times, samples, millimetres. Pure: numbers in, numbers out.

export const INCH_MM = 25.4;
export const NOMINAL = 96 / INCH_MM; // CSS pixels per millimetre if the screen is what CSS takes it for

/** Interval between two marks in milliseconds, and as a rate per minute (0 where they coincide). */
export function interval(a, b) {
  const ms = Math.abs(b - a);
  return { ms, perMinute: ms > 0 ? 60000 / ms : 0 };
}

/** Value of a channel at a moment: linear between samples, null where nothing was recorded. */
export function valueAt(channel, time) {
  const at = ((time - channel.start) / 1000) * channel.rate;
  const i = Math.floor(at);
  if (i < 0 || i >= channel.values.length) return null;
  const here = channel.values[i];
  const next = channel.values[Math.min(i + 1, channel.values.length - 1)];
  if (Number.isNaN(here)) return null;
  return Number.isNaN(next) ? here : here + (next - here) * (at - i);
}

/** Nearest sample's time. */
export function snap(channel, time) {
  const i = Math.round(((time - channel.start) / 1000) * channel.rate);
  return channel.start + (Math.max(0, Math.min(channel.values.length - 1, i)) / channel.rate) * 1000;
}

/** Samples as they came (little-endian int16, base64) to values in the channel's unit, millivolts for an ECG. */
export function decode(channel) {
  const bytes = Uint8Array.from(atob(channel.samples), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  const ecg = channel.unit === "uV";
  const values = new Float32Array(bytes.length >> 1);
  for (let i = 0; i < values.length; i += 1) {
    const raw = view.getInt16(i * 2, true);
    values[i] = raw === channel.missing ? NaN : (raw * channel.gain + channel.offset) * (ecg ? 0.001 : 1);
  }
  return { name: channel.name, kind: channel.kind || (ecg ? "ecg" : ""), unit: ecg ? "mV" : channel.unit, ecg, rate: channel.rate, start: channel.start, values };
}

/** Join what was fetched later to what is there: the samples of both, in order of time. */
export function join(old, fresh) {
  if (!old || old.rate !== fresh.rate) return fresh;
  const start = Math.min(old.start, fresh.start);
  const end = Math.max(old.start + (old.values.length / old.rate) * 1000, fresh.start + (fresh.values.length / fresh.rate) * 1000);
  const values = new Float32Array(Math.round(((end - start) / 1000) * old.rate)).fill(NaN);
  for (const part of [old, fresh]) {
    const at = Math.round(((part.start - start) / 1000) * old.rate);
    for (let i = 0; i < part.values.length && at + i < values.length; i += 1) if (!Number.isNaN(part.values[i])) values[at + i] = part.values[i];
  }
  return { ...fresh, start, values };
}

/** Least and greatest value of a channel; [0, 1] if there is none. */
export function range(values) {
  let [least, most] = [Infinity, -Infinity];
  for (const value of values) { if (value < least) least = value; if (value > most) most = value; }
  return least <= most ? [least, most] : [0, 1];
}
