// The image page around the viewer: the correction's labels, one verdict per click, a page that becomes more.

import { want } from "./link.js";

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
  correction.addEventListener("keydown", (event) => { if (event.key === "Escape") { event.stopPropagation(); open(false); } });
}
const form = document.querySelector("[data-verdict]");
form?.addEventListener("submit", (event) => {
  if (event.submitter?.value.startsWith("correct") && !form.querySelector("input[name=label]:checked")) {
    event.preventDefault();
    correction.querySelector("input").focus();
    return;
  }
  // One verdict per click: the buttons rest until the answer is here. Disabled only after the form's data was taken.
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});
// Confirm and go on: two keys at once, so that it is never pressed in passing.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !event.shiftKey || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("textarea, input, dialog") || document.querySelector("dialog[open]")) return;
  const button = form?.querySelector("[value='confirm+next']");
  if (button && !button.disabled) { event.preventDefault(); button.click(); }
});

// Comes by itself when the finding arrives: the form to decide on it.
document.addEventListener("page-refreshed", ({ detail: page }) => {
  if (Boolean(document.querySelector("[data-verdict]")) !== Boolean(page.querySelector("[data-verdict]"))) location.reload();
});
