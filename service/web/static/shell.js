// Shared by the pages with a request: one task at a time, loading of models, and links.

import { attempt } from "./attempt.js";
import { findAll } from "./dom.js";
import { copyAddress } from "./link.js";
import { loadModels } from "./model_choice.js";

const [form, stop, share, status, retry] = findAll(["request", "stop", "share", "status", "retry"]);
const submit = form.querySelector("[type=submit]");

// The parts of a page around its content. The form's button or Ctrl+Enter starts a task, another button or Escape stops it.
export class Shell {
  #running = null;
  #on;

  // `on.submit` is called when the form is submitted, and `on.models` with the served models.
  constructor(on) {
    this.#on = on;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      on.submit();
    });
    stop.addEventListener("click", () => this.#stop());
    share.addEventListener("click", async () => { status.textContent = await copyAddress(); });
    document.addEventListener("keydown", (event) => {
      if (document.querySelector("dialog[open], :popover-open")) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !this.#running) form.requestSubmit();
      if (event.key === "Escape") this.#stop();
    });
  }

  get isRunning() {
    return this.#running !== null;
  }

  /**
   * Loads the models; returns whether that succeeded. Without models, shows the page to train the first one. `again` is
   * called by the retry button of a failure.
   * @param {() => unknown} again
   */
  loadModels(show = this.#on.models, again = () => this.loadModels(show)) {
    return attempt(async () => {
      const models = await loadModels((message) => { status.textContent = message; });
      if (models.length) show(models);
      else location.replace("train");
    }, undefined, again);
  }

  // Runs `work`, which gets an AbortSignal; the status shows `label` meanwhile, and then what `done` returns.
  async run(label, work, done) {
    if (this.#running) return;
    const { signal } = (this.#running = new AbortController());
    this.#showRunning(true, label);
    let end = "";
    try {
      const gone = async () => this.#on.models(await loadModels().catch(() => []));
      const isDone = await attempt(() => work(signal), gone, () => this.run(label, work, done));
      end = isDone ? done() : signal.aborted ? "Stopped." : "";
    } finally {
      this.#running = null;
      this.#showRunning(false, end);
    }
  }

  // Only one of the two buttons is shown, in the same place.
  #showRunning(isRunning, label) {
    const hadFocus = [submit, stop, retry].includes(document.activeElement);
    [submit.disabled, submit.hidden, stop.hidden, stop.disabled, status.textContent] = [isRunning, isRunning, !isRunning, !isRunning, label];
    // Other buttons that start a task keep the focus.
    document.querySelectorAll("[data-task]").forEach((each) => each.setAttribute("aria-disabled", String(isRunning)));
    if (hadFocus) (isRunning ? stop : submit).focus({ preventScroll: true });
  }

  #stop() {
    this.#running?.abort();
  }
}
