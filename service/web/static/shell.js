// What every page has: its look, a notice of what went wrong, and the question for a key.

import { Failure, keepKey } from "./api.js";

const find = (id) => document.getElementById(id);
const [theme, notice, key, keyValue] = ["theme", "notice", "key", "key-value"].map(find);

// Shows the page as the visitor likes it; `changed` is called when that changes.
export function startTheme(changed = () => {}) {
  show(localStorage.getItem("ostinato-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  theme.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("ostinato-theme", next);
    show(next);
    changed();
  });
}

function show(name) {
  document.documentElement.dataset.theme = name;
  theme.setAttribute("aria-pressed", String(name === "dark"));
}

// Does something that may fail, and says so; asks for a key where one is missing. Returns whether it was done.
// `gone` is called when a model is not there any more.
export async function attempt(work, gone = () => {}) {
  notice.hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (error.status === 401 && (await askForKey())) return attempt(work, gone);
    if (!(error instanceof Failure)) throw error;
    notice.textContent = error.message;
    notice.hidden = false;
    if (error.code === "model_not_found") await gone();
    return false;
  }
}

function askForKey() {
  key.showModal();
  return new Promise((resolve) => {
    key.addEventListener("close", () => {
      const given = key.returnValue === "use" && keyValue.value.trim();
      if (given) keepKey(given);
      keyValue.value = "";
      resolve(Boolean(given));
    }, { once: true });
  });
}
