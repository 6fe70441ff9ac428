// Who else has an item open: told by the console, shown on its row and on its page. Account names, as text.

import { link } from "./link.js";
import { ready, t } from "./texts.js";

const me = document.documentElement.dataset.user;
let people = {};

function show() {
  for (const place of document.querySelectorAll("[data-looking]")) {
    const others = (people[place.dataset.looking] ?? []).filter((name) => name !== me);
    place.hidden = others.length === 0;
    const text = others.length ? t("live.looking", { names: others.join(", ") }) : "";
    if (place.textContent !== text) place.textContent = text;
  }
}

ready.then(() => {
  link.addEventListener("presence", ({ detail }) => { people = detail.items; show(); });
  // Without a link nobody is known to look at anything.
  link.addEventListener("state", ({ detail }) => { if (detail === "lost") { people = {}; show(); } });
  document.addEventListener("refreshed", show);
});
