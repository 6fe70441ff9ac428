// The image page around the viewer: the correction's labels, one verdict per click, a page that becomes more.

import { want } from "./link.js";
import { toast } from "./main.js";
import { ready, t } from "./texts.js";

const main = document.getElementById("main");
want({ item: main.dataset.item });

const correct = document.querySelector("[data-correct]");
const correction = document.getElementById("correction");
if (correct && correction) {
  correction.hidden = true;
  const open = (wish) => {
    correction.hidden = !wish;
    correct.setAttribute("aria-expanded", String(wish));
    (wish ? correction.querySelector("input") : correct).focus();
  };
  correct.addEventListener("click", () => open(correction.hidden));
  correction.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); open(false); }
    // By itself Enter on a label would press the form's first button, which confirms what is about to be corrected.
    if (event.key === "Enter" && event.target.matches("input")) { event.preventDefault(); correction.querySelector("button").click(); }
  });
}
const form = document.querySelector("[data-verdict]");
form?.addEventListener("submit", (event) => {
  // A verdict is of the image of this page. Who has another of its series before her is shown this one first.
  if (document.querySelector("#viewer .pane:first-child [data-another]:not([hidden])")) {
    event.preventDefault();
    document.dispatchEvent(new Event("show-own"));
    ready.then(() => toast(t("viewer.own_first"), { failed: true }));
    return;
  }
  if (event.submitter?.value.startsWith("correct") && !form.querySelector("input[name=label]:checked")) {
    event.preventDefault();
    correction.querySelector("input").focus();
    return;
  }
  // One verdict per click: the buttons rest until the answer is here. Disabled only after the form's data was taken.
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});
function decide() {
  const button = form?.querySelector("button[value=confirm]");
  if (document.fullscreenElement) document.exitFullscreen();
  button?.scrollIntoView({ block: "nearest" });
  button?.focus();
}

/** Confirm and go on: two keys at once, so that it is never pressed in passing. */
function confirmAndNext() {
  const button = form?.querySelector("[value='confirm+next']");
  if (button && !button.disabled) button.click();
}

const deeds = { v: decide, n: () => document.querySelector("[data-go=next]")?.click(), u: () => document.querySelector("[data-go=list]")?.click() };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.closest("textarea, select, input:not([type=range]):not([type=radio])") || document.querySelector("dialog[open]")) return;
  // Enter on a button or link does what that button or link says.
  if (event.key === "Enter" && event.target.closest("button, a, summary, input")) return;
  const deed = event.key === "Enter" ? event.shiftKey && confirmAndNext : !event.shiftKey && deeds[event.key];
  if (deed) { event.preventDefault(); deed(); }
});

// Comes by itself when the finding arrives: the form to decide on it.
document.addEventListener("page-refreshed", ({ detail: page }) => {
  if (Boolean(document.querySelector("[data-verdict]")) !== Boolean(page.querySelector("[data-verdict]"))) location.reload();
});
