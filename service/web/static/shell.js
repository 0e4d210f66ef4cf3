// What every page has: its look, one task at a time, a notice of what went wrong, and the question for a key.

import { Failure, hasKey, keepKey } from "./api.js";

const find = (id) => document.getElementById(id);
const [theme, notice, key, keyValue, keyRefused] = ["theme", "notice", "key", "key-value", "key-refused"].map(find);

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
    if (error.status === 401 && (await askForKey(hasKey() ? error.message : ""))) return attempt(work, gone);
    if (!(error instanceof Failure)) console.error(error);
    notice.textContent = error instanceof Failure
      ? error.message
      : `Something went wrong on this page (${error.message}): what it shows may be incomplete. Try again, or reload it.`;
    notice.hidden = false;
    if (error.code === "model_not_found") await gone();
    return false;
  }
}

// Runs one task at a time, which takes a while and can be stopped: by a button, or by Escape. Ctrl+Enter submits the form.
export class TaskRunner {
  #running = null;
  #parts;
  #gone;

  // `parts` are the form, its button `submit`, the button `stop` and `status`; `gone` is that of `attempt`.
  constructor(parts, gone) {
    this.#parts = parts;
    this.#gone = gone;
    parts.stop.addEventListener("click", () => this.stop());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.#running) parts.form.requestSubmit();
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop();
    });
  }

  // Does `work`, which gets an AbortSignal; `what` is shown meanwhile, and what `done` returns when it was done.
  async run(what, work, done) {
    if (this.#running) return;
    const { submit, stop, status } = this.#parts;
    const { signal } = (this.#running = new AbortController());
    [submit.disabled, stop.disabled, status.textContent] = [true, false, what];
    let end = "";
    try {
      const isDone = await attempt(() => work(signal), this.#gone);
      end = isDone ? done() : signal.aborted ? "Stopped." : "";
    } finally {
      this.#running = null;
      [submit.disabled, stop.disabled, status.textContent] = [false, true, end];
    }
  }

  stop() {
    this.#running?.abort();
  }
}

// Asks for a key; `refused` says why the last one was refused, if there was one.
function askForKey(refused) {
  keyRefused.textContent = refused && `The key was refused: ${refused}.`;
  keyRefused.hidden = !refused;
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
