// Lengths and areas on a frame, in source pixels or millimetres. Pure.

const distance = (a, b, [row, column]) => Math.hypot((b[0] - a[0]) * column, (b[1] - a[1]) * row);

/** Spacing (row, column) to measure with; where the object gives none, widths of a pixel, which may be taller than wide. */
export function scaleOf(spacing, aspect = 1) {
  const known = Array.isArray(spacing) && spacing.length === 2 && spacing.every((value) => Number.isFinite(value) && value > 0);
  return known ? { spacing, unit: "mm", digits: 1 } : { spacing: [aspect, 1], unit: "px", digits: 0 };
}

/** The scale between two points: that of the smallest region around each; outside of all regions the frame's own.
    Points under different scales, or in a trace or a spectrum, are measured in pixels. */
export function scaleBetween(a, b, { spacing, aspect, scales }) {
  if (!scales?.length) return scaleOf(spacing, aspect);
  const found = [a, b].map((at) => around(at, scales)).filter(Boolean).map((region) => region[4]);
  if (!found.length) return scaleOf(spacing, aspect);
  const [one, other = one] = found;
  return scaleOf(one && other && one.every((value, i) => Math.abs(value / other[i] - 1) < 0.002) ? one : null, aspect);
}

const extent = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);

function around([x, y], scales) {
  return scales.filter(([x0, y0, x1, y1]) => x >= x0 && x <= x1 && y >= y0 && y <= y1).sort((a, b) => extent(a) - extent(b))[0];
}

export const length = (a, b, scale) => distance(a, b, scale.spacing);

/** The ellipse in the rectangle between two corners: its extents and its area. */
export function ellipse(a, b, { spacing: [row, column] }) {
  const width = Math.abs(b[0] - a[0]) * column;
  const height = Math.abs(b[1] - a[1]) * row;
  return { long: Math.max(width, height), short: Math.min(width, height), area: (Math.PI / 4) * width * height };
}

/** The longest diameter of an outline and the largest extent perpendicular to it (ACR BI-RADS), as two pairs of points.
    The same rule by which the engine measures, so the drawn axes are the ones whose lengths are told. */
export function axes(contour, { spacing: [row, column] }) {
  const points = contour.map(([x, y]) => [x * column, y * row]);
  let longest = -1;
  let ends = null;
  for (let i = 0; i < points.length; i += 1) {
    for (let j = i + 1; j < points.length; j += 1) {
      const squared = (points[i][0] - points[j][0]) ** 2 + (points[i][1] - points[j][1]) ** 2;
      if (squared > longest) { longest = squared; ends = [i, j]; }
    }
  }
  if (!ends || longest <= 0) return null;
  const [p, q] = [points[ends[0]], points[ends[1]]];
  const size = Math.sqrt(longest);
  const along = [(q[0] - p[0]) / size, (q[1] - p[1]) / size];
  const offsets = points.map(([x, y]) => along[0] * (y - p[1]) - along[1] * (x - p[0]));
  const low = offsets.indexOf(Math.min(...offsets));
  const high = offsets.indexOf(Math.max(...offsets));
  // Drawn square to the long axis, through the middle between the two outermost points.
  const middle = ((points[low][0] + points[high][0] - 2 * p[0]) * along[0] + (points[low][1] + points[high][1] - 2 * p[1]) * along[1]) / 2;
  const at = (offset) => [(p[0] + along[0] * middle - along[1] * offset) / column, (p[1] + along[1] * middle + along[0] * offset) / row];
  return { long: [contour[ends[0]], contour[ends[1]]], short: [at(offsets[low]), at(offsets[high])] };
}

/** A number as it is written beside a measurement. */
export const number = (value, digits) => (Number.isFinite(value) ? value.toFixed(digits) : "—");
