// Window, level and inversion of pixels that were already rendered to 8 bits. Pure.
// A window is { center, width } in values after the modality LUT (PS3.3, C.11.2.1.2, the linear function).

export const WHOLE = { center: 128, width: 256 }; // the window under which an 8-bit value is shown as itself

export const same = (a, b) => Math.abs(a.center - b.center) < 0.01 && Math.abs(a.width - b.width) < 0.01;

/** The 256 grey levels that turn pixels rendered with `applied` into what `wanted` would show; null if nothing changes.
    `dark` says that rising values were rendered darker (MONOCHROME1). Values that `applied` clipped stay clipped. */
export function table(applied, wanted, inverted, dark = false) {
  if (!inverted && same(applied, wanted)) return null;
  const levels = new Uint8ClampedArray(256);
  const span = Math.max(applied.width - 1, 1e-6);
  const wish = Math.max(wanted.width - 1, 1e-6);
  for (let level = 0; level < 256; level += 1) {
    const share = (dark ? 255 - level : level) / 255;
    const value = (share - 0.5) * span + applied.center - 0.5;
    const out = 255 * ((value - (wanted.center - 0.5)) / wish + 0.5);
    levels[level] = dark !== inverted ? 255 - Math.min(255, Math.max(0, out)) : out;
  }
  return levels;
}

/** Apply `levels` to RGBA pixels, from `from` into `to`. */
export function apply(levels, from, to) {
  for (let i = 0; i < from.length; i += 4) {
    to[i] = levels[from[i]];
    to[i + 1] = levels[from[i + 1]];
    to[i + 2] = levels[from[i + 2]];
    to[i + 3] = 255;
  }
}
