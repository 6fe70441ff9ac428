// What a pane says in words: what is shown, what the AI says of this frame and how far that is verified, in which scale.

import { number } from "./geometry.js";
import { sizeText } from "./overlay.js";
import { reasonText, t, word } from "../texts.js";
import { localTime } from "../times.js";

const part = (pane, name) => pane.root.querySelector(`[data-${name}]`);

/** Which image it is, and whether somebody has verified what the AI says. */
export function head(pane) {
  const data = pane.shown ?? { ...pane.data, verification: "" };
  // When it was made. When it came here is another matter, and said so: a prior may have been sent today.
  const when = data.examined || t("viewer.received", { when: localTime(new Date(data.received), "full") });
  part(pane, "who").textContent = [data.title, data.patientId].filter(Boolean).join(" · ") || "—";
  const another = part(pane, "another");
  another.hidden = !pane.another;
  if (pane.another) part(pane, "open").href = `/images/${pane.stack.ids[pane.frame]}${location.search}`;
  part(pane, "title").textContent = [when, data.study || data.modality].filter(Boolean).join(" · ");
  const badge = part(pane, "badge");
  badge.hidden = !data.verification;
  badge.className = `badge-ai badge-${data.verification}`;
  const said = data.verification === "correct" ? word("label", data.label) : "";
  badge.textContent = data.verification ? t(`viewer.verified.${data.verification}`, { name: data.by, label: said }) : "";
  pane.root.classList.toggle("rejected", data.verification === "reject");
  tell(pane);
}

/** What the AI says of the frame that is shown, or that it has not looked at it. */
export function tell(pane) {
  const { found } = pane;
  const data = pane.shown;
  const parts = [];
  const best = !pane.stack && found?.status === "analysed" && pane.frame === data.frame && data.found.length > 1;
  if (pane.frames > 1) parts.push(t(pane.stack ? "viewer.slice_of" : "viewer.frame_of", { n: pane.frame + 1, m: pane.frames }) + (best ? ` (${t("viewer.best")})` : ""));
  if (!data) parts.push("…");
  else if (!data.found.length) parts.push(t(data.state === "failed" ? "viewer.refused" : "viewer.waiting"));
  else if (!found) parts.push(t("viewer.not_sampled"));
  else if (found.status !== "analysed") parts.push(`${t("viewer.refused")}: ${reasonText(found.reason)}`);
  else {
    parts.push(word("label", found.label) + (found.malignancy === null ? "" : `, ${t("viewer.malignancy", { p: percent(found.malignancy) })}`));
    if (!found.lesions.length) parts.push(t("viewer.no_lesion"));
    if (data.verification === "preliminary") parts.push(t("viewer.preliminary"));
  }
  const line = part(pane, "said");
  const text = parts.join(" · ");
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("said-suspicious", Boolean(found?.suspicious));
  chips(pane);
  part(pane, "scale").textContent = pane.scales?.length ? t("viewer.several_scales") : pane.spacing
    ? spacingText(pane.spacing, pane.spacingSource || "—") : t("viewer.no_spacing");
  part(pane, "model").textContent = data?.model ?? "";
}

/** A button per lesion of the frame. */
export function chips(pane) {
  const box = part(pane, "lesions");
  const lesions = pane.found?.lesions ?? [];
  const key = `${pane.frame}:${lesions.length}:${[...pane.off]}:${pane.data.id}`;
  if (box.dataset.key === key) return;
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.index : null;
  box.dataset.key = key;
  box.replaceChildren(...lesions.map((lesion, index) => {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.className = "chip";
    chip.dataset.index = String(index);
    chip.setAttribute("aria-pressed", String(!pane.off.has(index)));
    chip.textContent = `${t("viewer.lesion", { n: index + 1 })}  ${sizeText(lesion)}  ${percent(lesion.probability)}`;
    chip.addEventListener("click", () => pane.toggleLesion(index));
    return chip;
  }));
  if (focused !== null) box.querySelector(`[data-index="${focused}"]`)?.focus();
}

/** Zoom (an asterisk: not fitted), window and inversion. */
export function corner(pane) {
  const { scale } = pane.place;
  const { center, width } = pane.wanted;
  const digits = pane.deep && width < 10 ? 2 : 0;
  const fitted = Math.abs(scale - pane.fitScale) < 1e-6;
  part(pane, "corner").textContent = [
    `${Math.round(100 * scale * devicePixelRatio)} %${fitted ? "" : " *"}`,
    pane.picture && (pane.window || !pane.colour) ? t("viewer.window_at", { c: number(center, digits), w: number(width, digits) }) : "",
    pane.inverted ? t("viewer.inverted") : "",
  ].filter(Boolean).join("   ");
}

/** How large a pixel is: between rows, then between columns, unless both are the same. */
function spacingText(spacing, source) {
  const [rows, columns] = spacing.map((mm) => number(mm, 3));
  return rows === columns ? t("viewer.spacing", { mm: columns, source }) : t("viewer.spacing_both", { rows, columns, source });
}

function percent(p) {
  if (!Number.isFinite(p)) return "—";
  if (p < 0.01) return "<1 %";
  return p > 0.99 ? ">99 %" : `${Math.round(p * 100)} %`;
}
