// Lists of rows with the keys: j and k or the arrows, Enter, / to search; filters that apply when they are chosen.

const rows = () => [...document.querySelectorAll("[data-key] .row-link")];
const zone = document.querySelector("[data-filters] [name=zone]");
if (zone) zone.value = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "";

function go(step) {
  const all = rows();
  if (!all.length) return;
  const at = all.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
  all[next].focus();
  all[next].closest("[data-key]").scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const { target, key } = event;
  if (target.closest("input, select, textarea")) {
    if (key === "Escape") target.blur();
    return;
  }
  const deed = {
    j: () => go(1), k: () => go(-1), ArrowDown: () => go(1), ArrowUp: () => go(-1), Home: () => go(-1e6), End: () => go(1e6),
    "/": () => document.querySelector("[data-search]")?.focus(),
  }[key];
  if (!deed || (key.startsWith("Arrow") && !target.closest("[data-key]"))) return;
  if ((key === "Home" || key === "End") && !target.closest("[data-key]")) return;
  event.preventDefault();
  deed();
});

for (const form of document.querySelectorAll("[data-filters]")) {
  form.addEventListener("change", (event) => { if (event.target.matches("select")) form.requestSubmit(); });
  // Nothing that is not set stands in the address.
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (!value) formData.delete(name);
    if (!formData.has("since") && !formData.has("until")) formData.delete("zone");
  });
}
