// What the AI outlined on the frame that is shown, as SVG in source pixels. Responsible for drawing, not for choosing.

import { axes, number, scaleOf } from "./geometry.js";
import { t } from "../texts.js";

const SVG = "http://www.w3.org/2000/svg";

export function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

const points = (contour) => contour.map(([x, y]) => `${x},${y}`).join(" ");
/** Two strokes, dark below light: legible on any picture, whoever looks. */
export const twice = (name, attributes) => [element(name, { ...attributes, class: "halo" }), element(name, { ...attributes, class: "line" })];
const segment = ([a, b]) => twice("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1] });

export const sizeText = (lesion) => `${number(lesion.long, lesion.unit === "mm" ? 1 : 0)} × ${number(lesion.short, lesion.unit === "mm" ? 1 : 0)} ${lesion.unit}`;

/** Put the outlines of `found` (what the AI says of this frame) into `group`; `hidden` are the lesions switched off. */
export function drawLesions(group, found, layers, hidden, { spacing, aspect }, label) {
  group.replaceChildren();
  group.classList.toggle("suspicious", Boolean(found?.suspicious));
  for (const [index, lesion] of (found?.lesions ?? []).entries()) {
    if (hidden.has(index)) continue;
    const name = t("viewer.lesion", { n: index + 1 });
    const one = element("g", { class: "lesion", "data-lesion": index, role: "img", "aria-label": `${name}, ${sizeText(lesion)}` });
    if (layers.contour) {
      const outline = element("g", { class: "layer-contour" });
      outline.append(...twice("polygon", { points: points(lesion.contour) }));
      one.append(outline);
    }
    if (layers.box) {
      const [x0, y0, x1, y1] = lesion.box;
      const box = element("g", { class: "layer-box" });
      box.append(element("rect", { x: x0, y: y0, width: Math.max(0, x1 - x0), height: Math.max(0, y1 - y0) }));
      one.append(box);
    }
    const found_axes = layers.axes ? axes(lesion.contour, scaleOf(lesion.unit === "mm" ? spacing : null, aspect)) : null;
    if (found_axes) {
      const cross = element("g", { class: "layer-axes" });
      cross.append(...segment(found_axes.long), ...segment(found_axes.short));
      one.append(cross);
    }
    group.append(one);
    if (layers.contour || layers.axes || layers.box) label([lesion.box[0], lesion.box[3]], layers.axes ? `${index + 1}  ${sizeText(lesion)}` : String(index + 1), "lesion-label");
  }
}
