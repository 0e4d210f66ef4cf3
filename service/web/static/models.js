// The page of served models: their versions, their training, and the traffic of each version.

import { get, hasKey, patch, post, remove } from "./api.js";
import { attempt } from "./attempt.js";
import { answer, fill, find, findAll, make } from "./dom.js";
import { count, megabytes, number } from "./format.js";
import { summary } from "./components/model_card.js";
import { toHash } from "./link.js";
import { loadModels } from "./model_choice.js";
import { sampleText } from "./sample.js";

const [list, none, readOnly, notice, confirmation, confirmTitle, confirmText] = findAll(["list", "none", "read-only", "notice", "confirm", "confirm-title", "confirm-text"]);
// Models whose details are loaded concurrently.
const NUM_LOADING = 4;

async function start() {
  const models = await loadModels();
  const mayChange = !list.classList.contains("read-only") && (!hasKey() || await get("v1/fine_tuning/jobs?limit=1").then(() => true, ({ code, message }) => code !== "missing_role" || /\badmin\b/.test(message)));
  readOnly.hidden = mayChange || !models.length;
  list.classList.toggle("read-only", !mayChange);
  const cards = models.map((model) => new Card(model));
  list.replaceChildren(...cards.map(({ element }) => element));
  none.hidden = cards.length > 0;
  const waiting = [...cards];
  const load = async () => {
    while (waiting.length) await waiting.shift().load();
  };
  await Promise.all(Array.from({ length: NUM_LOADING }, load));
}

class Card {
  element = find("card").content.firstElementChild.cloneNode(true);
  #model;
  #find = (selector) => this.element.querySelector(selector);

  constructor(model) {
    const { id } = model;
    this.#find("h2").textContent = id;
    const [write, inspect, train] = this.element.querySelectorAll("a");
    write.href = `./${toHash({ prompt: "", columns: [{ model: id }] })}`;
    inspect.href = `inspector${toHash({ model: id, text: "" })}`;
    train.href = `train?from=${encodeURIComponent(id)}`;
    this.#find(".rollback").addEventListener("click", () => this.#change("Rolling back", () => post(`${this.#path}/rollback`, {})));
    this.#find(".delete-model").addEventListener("click", () => this.#delete());
    this.#find("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#split(Number(this.#find(".canary").value), Number(this.#find(".percent").value));
    });
    this.#show(model);
  }

  get #path() {
    return `v1/models/${encodeURIComponent(this.#model.id)}`;
  }

  get #isLast() {
    return this.#model.versions.length + (this.#model.unloaded ?? []).length === 1;
  }

  // Loads the details of the versions.
  async load() {
    this.#show(await get(this.#path));
  }

  #show(model) {
    this.#model = model;
    this.#find(".help").textContent = summary(model);
    const unloaded = (model.unloaded ?? []).map((version) => ({ version, labels: labelsOf(model, version), share: null }));
    const versions = [...model.versions, ...unloaded].sort((one, other) => other.version - one.version);
    this.#find("ol").replaceChildren(...versions.map((version) => this.#row(version)));
    this.#find(".rollback").hidden = versions.length < 2 || !model.labels;
    this.#showSplit(model);
  }

  // The fields of the split, with the version labeled canary, or else the newest of the others.
  #showSplit({ id, version: main, versions, labels }) {
    const stable = labels?.stable ?? main;
    const others = versions.filter(({ version }) => version !== stable).reverse();
    const canary = others.find((each) => each.labels.includes("canary")) ?? others[0];
    this.#find("form").hidden = !labels || !canary;
    this.#find("form").setAttribute("aria-label", `Traffic split of ${id}`);
    if (!canary) return;
    fill(this.#find(".canary"), others.map(({ version }) => [String(version), String(version)]), String(canary.version));
    this.#find(".percent").value = Math.round(100 * canary.share);
  }

  #row({ version, labels, share, ...facts }) {
    const element = find("version").content.firstElementChild.cloneNode(true);
    element.querySelector("h3").textContent = `Version ${version}`;
    element.querySelector(".labels").append(...labels.map(badge));
    element.querySelector(".traffic").append(...(share === null ? ["not loaded"] : traffic(share)));
    element.querySelector("dl").append(...described(facts));
    const { sample } = facts;
    const details = element.querySelector("details");
    // A sample says more than numbers; shown on demand for a version with few requests.
    [details.hidden, details.open] = [!sample, share > 0.5];
    if (sample) element.querySelector(".sample").append(...sampleText(sample, this.#model.direction));
    const [promote, erase] = element.querySelectorAll("button");
    promote.hidden = labels.includes("stable");
    // The only version is deleted with the model; one that gets requests cannot be deleted before it is replaced.
    erase.hidden = this.#isLast || share > 0 || labels.some((label) => label !== "previous");
    element.querySelector(".actions").hidden = this.#isLast || (promote.hidden && erase.hidden);
    promote.setAttribute("aria-label", `Promote version ${version}`);
    promote.addEventListener("click", () => this.#promote(version));
    erase.setAttribute("aria-label", `Delete version ${version}`);
    erase.addEventListener("click", () => this.#delete(version, facts.size_bytes));
    return element;
  }

  // Makes a version stable; for the canary's, ends the split.
  #promote(version) {
    const isCanary = this.#model.labels?.canary === version;
    const change = { labels: { stable: version, ...(isCanary && { canary: null }) }, ...(isCanary && { shares: {} }) };
    return this.#change(`Promoting version ${version}`, () => patch(this.#path, change));
  }

  // Gives a version a share of the traffic, in percent; without one, all of it goes to the stable version.
  #split(version, percent) {
    const { labels, version: main } = this.#model;
    const change = percent
      ? { labels: { stable: labels.stable ?? main, canary: version }, shares: { stable: 100 - percent, canary: percent } }
      : { ...("canary" in labels && { labels: { canary: null } }), shares: {} };
    return this.#change("Splitting the traffic", () => patch(this.#path, change));
  }

  async #delete(version, bytes) {
    const { id } = this.#model;
    const what = version ? `version ${version} of ${id}` : `${id}${this.#isLast ? "" : " with all its versions"}`;
    const size = bytes ? ` (${megabytes(bytes)})` : "";
    if (!(await confirm(`Delete ${what}?`, `Its files${size} are deleted. This cannot be undone. Texts that are being written with it end with an error.`))) return;
    await this.#change(`Deleting ${what}`, () => remove(version ? `${this.#path}:${version}` : this.#path), !version);
  }

  // Runs a request and then shows the model, even if the request has failed; `isGone`: the request deletes the model.
  async #change(doing, request, isGone = false) {
    const [status, buttons] = [this.#find(".status"), this.element.querySelectorAll("button, select, input")];
    status.textContent = `${doing} …`;
    buttons.forEach((each) => { each.disabled = true; });
    const isDone = await attempt(request, undefined, () => this.#change(doing, request, isGone));
    buttons.forEach((each) => { each.disabled = false; });
    status.textContent = isDone ? "Done." : "";
    if (!isDone) notice.scrollIntoView({ block: "nearest" });
    if (isDone && isGone) {
      this.element.remove();
      none.hidden = list.childElementCount > 0;
      list.focus();
    } else {
      // The notice of the failure stays.
      await (isDone ? attempt(() => this.load()) : this.load().catch(() => {}));
      this.#find("h2").focus();
    }
  }
}

function labelsOf({ labels }, version) {
  return Object.keys(labels ?? {}).filter((label) => labels[label] === version);
}

function badge(label) {
  return make("span", { className: `badge ${label === "stable" ? "stable" : ""}`, textContent: label });
}

function traffic(share) {
  const text = `${Math.round(100 * share) || (share ? "<1" : 0)}%`;
  return [make("meter", { value: share, title: `${text} of the traffic` }), ` ${text}`];
}

/**
 * Terms and descriptions of a version's facts.
 * @param {any} facts
 */
function described({ created, parameters, size_bytes, weights_bytes, validation_loss, bits_per_character, ngram_loss, corpus, corpus_characters, parent }) {
  const known = (...values) => values.every((value) => value !== null && value !== undefined);
  /** @type {[boolean, string, () => string, string?][]} */
  const facts = [
    [known(validation_loss, bits_per_character), "Validation loss", () => `${number(validation_loss)} nats/token, ${number(bits_per_character, 2)} bits/character`, "wide"],
    [known(ngram_loss), "N-gram baseline", () => `${number(ngram_loss)} nats/token`],
    [known(created), "Published", () => new Date(created * 1000).toLocaleDateString("en", { dateStyle: "medium" })],
    [known(corpus), "Trained on", () => `${corpus}, ${count(corpus_characters)} characters`, "wide"],
    [known(parent), "Fine-tuned from", () => parent],
    [known(parameters), "Parameters", () => count(parameters)],
    [known(size_bytes), "On disk", () => megabytes(size_bytes)],
    [known(weights_bytes), "Weights in memory", () => megabytes(weights_bytes)],
  ];
  return facts.filter(([isKnown]) => isKnown).map(([, term, text, width = ""]) =>
    make("div", { className: width }, make("dt", { textContent: term }), make("dd", { textContent: text() })));
}

async function confirm(title, text) {
  [confirmTitle.textContent, confirmText.textContent] = [title, text];
  return (await answer(confirmation)) === "delete";
}

attempt(start);
