// One training job: its progress, actions, and published model.

import { Failure, follow, get, hasKey, post } from "./api.js";
import { attempt } from "./attempt.js";
import { Chart } from "./components/chart.js";
import { answer, copyText, findAll, make } from "./dom.js";
import { beginning, duration, number, sentence } from "./format.js";
import { toHash } from "./link.js";
import { Progress } from "./progress.js";
import { sampleText } from "./sample.js";

const [title, badge, left, bar, message, advice] = findAll(["job-title", "job-status", "left", "progress", "message", "advice"]);
const [pause, resume, cancel, confirmCancel, ready, samples] = findAll(["pause", "resume", "cancel", "confirm", "ready", "samples"]);
const [write, inspect, further, curl, copy, copied] = findAll(["write", "inspect", "further", "curl", "copy", "copied"]);
const [figure, legend, samplesPanel] = findAll(["chart", "chart-legend", "samples-panel"]);
const ENDED = ["succeeded", "failed", "cancelled"];
const RECONNECT_MS = 2000;
const SECOND_MS = 1000;
const INSPECTED = 200;
const LOST = "The connection to the server was lost. The training continues there; trying again…";

export const STATUSES = { queued: "waiting", running: "training", paused: "paused", succeeded: "published", failed: "failed", cancelled: "cancelled" };

export class JobView {
  #chart = new Chart(figure);
  #changed;
  #job = null;
  #progress = new Progress();
  #following = null;
  // Why events are not being read, as shown.
  #unread = null;

  // `changed` is called when the status of the job has changed.
  constructor(changed) {
    this.#changed = changed;
    pause.addEventListener("click", () => this.#act("pause"));
    resume.addEventListener("click", () => this.#act("resume"));
    cancel.addEventListener("click", async () => (await answer(confirmCancel)) && this.#act("cancel"));
    copy.addEventListener("click", async () => {
      copied.textContent = (await copyText(curl.textContent)) ? "Copied." : "Copy it from the text above.";
    });
    setInterval(() => this.#showTime(), SECOND_MS);
  }

  // Shows a job and follows it until it has ended or `leave` is called.
  async follow(job) {
    this.leave();
    const { signal } = (this.#following = new AbortController());
    this.#progress = new Progress();
    samples.replaceChildren();
    message.textContent = "";
    this.#showJob(job);
    this.#chart.show(this.#progress);
    while (!signal.aborted && !(await this.#read(job.id, signal))) await pauseFor(RECONNECT_MS, signal);
  }

  leave() {
    this.#following?.abort();
    confirmCancel.close("");
    this.#job = null;
  }

  // Reads events until the job has ended; returns whether there are no more.
  async #read(id, signal) {
    const { lastEventId } = this.#progress;
    const path = `v1/fine_tuning/jobs/${id}`;
    try {
      if (message.textContent === this.#unread) {
        const job = await get(path, signal);
        message.textContent = "";
        this.#showJob(job);
      }
      for await (const event of follow(`${path}/events?stream=true${lastEventId ? `&after=${lastEventId}` : ""}`, signal)) {
        if (this.#progress.add(event, Date.now())) this.#addSamples(this.#progress.epochs.at(-1));
        // The samples of a job that ended before the page was opened come after its status.
        if (this.#job?.status === "succeeded") this.#showModel(this.#job.fine_tuned_model);
        if (event.type === "message") {
          message.textContent = sentence(event.message);
          this.#showJob(await get(path, signal));
        }
        this.#showProgress();
      }
      this.#showJob(await get(path, signal));
      return true;
    } catch (error) {
      if (signal.aborted) return true;
      if (error.status === 401) return !(await attempt(() => get(path), undefined, () => this.#job?.id === id && this.follow(this.#job)));
      if (!(error instanceof Failure) || (error.status >= 400 && error.status < 500 && error.status !== 429)) {
        await attempt(() => { throw error; });
        return true;
      }
      // Too many streams of the tenant, or no connection.
      message.textContent = this.#unread = error.status === 429 ? sentence(error.message) : LOST;
      return false;
    }
  }

  async #act(action) {
    await attempt(async () => {
      const { id } = this.#job;
      const job = await post(`v1/fine_tuning/jobs/${id}/${action}`, {});
      if (this.#job?.id !== id) return; // another one has been opened meanwhile
      message.textContent = { pause: "Pausing after the current step…", cancel: "Cancelling…", resume: "Resuming after the last complete epoch…" }[action];
      this.#showJob(job);
    });
  }

  #showJob(job) {
    const isNew = this.#job?.status !== job.status;
    const focused = [pause, resume, cancel].find((each) => each === document.activeElement);
    this.#job = job;
    title.textContent = nameOf(job);
    badge.textContent = STATUSES[job.status];
    badge.dataset.status = job.status;
    pause.hidden = !["queued", "running"].includes(job.status);
    resume.hidden = job.status !== "paused";
    cancel.hidden = ENDED.includes(job.status);
    if (focused?.hidden) ([pause, resume].find(({ hidden }) => !hidden) ?? title).focus({ preventScroll: true });
    ready.hidden = job.status !== "succeeded";
    if (job.status !== "running") this.#progress.pause();
    if (job.status === "succeeded") this.#showModel(job.fine_tuned_model);
    if (job.status === "failed") message.textContent = sentence(job.error?.message ?? "the job failed");
    if (job.status === "queued") message.textContent = "Waiting for the trainer, which runs one job at a time.";
    this.#showProgress();
    if (isNew) this.#changed(job);
  }

  #showProgress() {
    const isOver = ENDED.includes(this.#job.status);
    const hasBegun = this.#progress.training.length > 0;
    bar.hidden = isOver;
    // Without a value it moves.
    if (hasBegun || this.#job.status === "paused") bar.value = this.#progress.fraction;
    else bar.removeAttribute("value");
    // A job that failed immediately has nothing to show.
    figure.hidden = legend.hidden = isOver && !hasBegun;
    samplesPanel.hidden = isOver && !this.#progress.epochs.length;
    this.#chart.show(this.#progress);
    advice.textContent = this.#progress.advice(this.#job.status);
    advice.hidden = !advice.textContent;
    this.#showTime();
  }

  #showTime() {
    if (!this.#job) return;
    const seconds = this.#job.status === "running" ? this.#progress.secondsLeft(Date.now()) : null;
    if (this.#job.status !== "running") left.textContent = "";
    else if (!this.#progress.training.length) left.textContent = "preparing…";
    else if (seconds === null) left.textContent = "";
    else left.textContent = seconds < 1 ? "evaluating and publishing…" : `epoch ${this.#progress.epoch} · ${duration(seconds)} left`;
  }

  #addSamples({ epoch, loss, samples: written }) {
    const head = `Epoch ${epoch}${loss === null ? "" : ` · validation loss ${number(loss)}`}`;
    const texts = written.map((sample) => make("p", { className: "sample", dir: "auto" }, ...sampleText(sample, this.#job?.settings.direction)));
    samples.prepend(make("li", {}, make("p", { className: "help", textContent: head }), ...texts));
  }

  #showModel(name) {
    const { given = "", text = "", labels = {} } = this.#progress.epochs.at(-1)?.samples[0] ?? {};
    const shown = this.#job.settings.direction === "backward" ? text + given : given + text;
    write.href = `./${toHash({ prompt: "", columns: [{ model: name }] })}`;
    inspect.href = `inspector${toHash({ model: name, text: beginning(shown, INSPECTED), labels })}`;
    further.href = `train?from=${encodeURIComponent(name)}`;
    const key = hasKey() ? ' -H "Authorization: Bearer $KEY"' : "";
    const body = JSON.stringify({ model: name, prompt: "", ...(Object.keys(labels).length && { labels }), max_tokens: 300, temperature: 0.5, stream: true });
    curl.textContent = `curl -N ${new URL("v1/completions", location.href)}${key} -d '${body.replaceAll("'", "'\\''")}'`;
  }
}

// The name of the model that a job publishes.
export function nameOf(job) {
  return job.fine_tuned_model ?? job.user_provided_suffix ?? job.id;
}

function pauseFor(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}
