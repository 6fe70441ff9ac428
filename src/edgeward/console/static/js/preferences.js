// Colours without loading the page anew: a bed wall must not lose its traces for that.

const ORDER = { auto: "dark", dark: "light", light: "auto" };
const root = document.documentElement;

for (const button of document.querySelectorAll("[data-theme-button]")) {
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    const form = button.closest("form");
    const theme = button.value;
    root.dataset.theme = theme;
    button.value = ORDER[theme];
    const body = new URLSearchParams({ theme, csrf: form.elements.csrf.value });
    await fetch("/preferences", { method: "POST", body, headers: { "x-csrf": form.elements.csrf.value || "none" } }).catch(() => null);
    document.dispatchEvent(new CustomEvent("theme"));
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new CustomEvent("theme")));
