// What both pages share: theme, one task at a time, loading of models, links, error notices, and the API key dialog.

import { Failure, hasKey, keepKey } from "./api.js";
import { findAll } from "./dom.js";
import { copyAddress } from "./link.js";
import { loadModels } from "./models.js";
import { startTheme } from "./theme.js";

const [form, stop, share, status] = findAll(["request", "stop", "share", "status"]);
const [notice, key, keyValue, keyRefused] = findAll(["notice", "key", "key-value", "key-refused"]);
const submit = form.querySelector("[type=submit]");

// The parts of a page around its content. The form's button or Ctrl+Enter starts a task, another button or Escape stops it.
export class Shell {
  #running = null;
  #on;

  // `on.submit` is called when the form is submitted, `on.models` with the models that are served, and
  // `on.theme` when the theme changes.
  constructor(on) {
    this.#on = on;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      on.submit();
    });
    stop.addEventListener("click", () => this.#stop());
    share.addEventListener("click", async () => { status.textContent = await copyAddress(); });
    document.addEventListener("keydown", (event) => {
      if (document.querySelector("dialog[open]")) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.#running) form.requestSubmit();
      if (event.key === "Escape") this.#stop();
    });
    startTheme(on.theme);
  }

  // Loads the models; returns whether that succeeded.
  loadModels(show = this.#on.models) {
    return attempt(async () => show(await loadModels()));
  }

  // Runs `work`, which gets an AbortSignal; the status shows `label` meanwhile, and then what `done` returns.
  async run(label, work, done) {
    if (this.#running) return;
    const { signal } = (this.#running = new AbortController());
    [submit.disabled, stop.disabled, status.textContent] = [true, false, label];
    let end = "";
    try {
      const isDone = await attempt(() => work(signal), async () => this.#on.models(await loadModels().catch(() => [])));
      end = isDone ? done() : signal.aborted ? "Stopped." : "";
    } finally {
      this.#running = null;
      [submit.disabled, stop.disabled, status.textContent] = [false, true, end];
    }
  }

  #stop() {
    this.#running?.abort();
  }
}

// Runs `work` and shows a notice if it fails; on a 401, asks for an API key and runs it again. Returns
// whether it succeeded. `gone` is called when a model is no longer served.
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
      : `An error occurred on this page (${error.message}): what it shows may be incomplete. Try again, or reload the page.`;
    notice.hidden = false;
    if (error.code === "model_not_found") await gone();
    return false;
  }
}

// Asks for an API key; `refused` is the reason why the last one was refused, if there was one.
function askForKey(refused) {
  keyRefused.textContent = refused && `The key was refused: ${refused}.`;
  keyRefused.hidden = !refused;
  // Escape leaves the value of the last time.
  key.returnValue = "";
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
