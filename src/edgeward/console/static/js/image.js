// The image page: layers on and off, a picture that cannot be had, the correction's labels.

const frame = document.getElementById("frame");
const picture = frame?.querySelector("[data-frame]");

if (picture) {
  const missing = () => {
    (picture.ownerSVGElement ?? picture).toggleAttribute("hidden", true);
    frame.querySelector(".frame-missing").hidden = false;
  };
  if (picture.complete && picture.naturalWidth === 0) missing();
  picture.addEventListener("error", missing);
}

for (const box of document.querySelectorAll("[data-layer]")) {
  const show = () => {
    for (const layer of document.querySelectorAll(`.layer-${box.dataset.layer}`)) layer.toggleAttribute("hidden", !box.checked);
  };
  box.addEventListener("change", show);
  show();
}

const correct = document.querySelector("[data-correct]");
const correction = document.getElementById("correction");
if (correct && correction) {
  correction.hidden = true;
  correct.addEventListener("click", () => {
    correction.hidden = !correction.hidden;
    correct.setAttribute("aria-expanded", String(!correction.hidden));
    if (!correction.hidden) correction.querySelector("input").focus();
  });
}
const form = document.querySelector("[data-verdict]");
form?.addEventListener("submit", (event) => {
  if (event.submitter?.value === "correct" && !form.querySelector("input[name=label]:checked")) {
    event.preventDefault();
    correction.querySelector("input").focus();
    return;
  }
  // One verdict per click: the buttons rest until the answer is here. Disabled only after the form's data was taken.
  setTimeout(() => { for (const button of form.querySelectorAll("button")) button.disabled = true; });
});

// A page that showed "waiting" gets its picture and form when the finding arrives.
document.addEventListener("page-refreshed", ({ detail: page }) => {
  const had = Boolean(document.querySelector("[data-frame]"));
  const has = Boolean(page.querySelector("[data-frame]"));
  if (had !== has) location.reload();
});
