// Finds where else a unit behaves as in a stretch of the text: in this text, in one that the model writes, or in a file.

import { Failure, post } from "./api.js";
import { themed } from "./colors.js";
import { findAll, make } from "./dom.js";
import { beginning, count, number, shownText, textOf } from "./format.js";
import { Inspection } from "./inspection.js";
import { toHash } from "./link.js";
import { readText } from "./text_file.js";

const [panel, form, help, how, threshold, shown, where, file, status, list] =
  findAll(["elsewhere", "elsewhere-form", "stretch", "elsewhere-how", "threshold", "threshold-shown", "elsewhere-where", "elsewhere-file", "elsewhere-status", "matches"]);

// The text that the model writes for the search; sampled at 0.5, most words are from its corpus.
const WRITTEN = { n: 6, max_tokens: 1000, temperature: 0.5, seed: 1 };
// 17 s on two busy cores.
const MAX_CHARACTERS = 20_000;
const MAX_MATCHES = 12;
// Tokens that are shown around a match, at each end of a long one, and that its link opens.
const [AROUND, ENDS, LINKED] = [24, 40, 300];

export class PatternSearch {
  #found = null;
  #chosen = null;
  #values = [];
  #most = 1;
  // First and last token of the stretch, whether they were selected, and whether its values are above the threshold.
  /** @type {[number, number]} */
  #stretch = [0, 0];
  #isSelected = false;
  #isAbove = true;
  #request = null;
  // A text that a model has written; `by` is that model and the labels.
  #written = { by: "", text: "" };
  #on;

  // `on.run` runs work with a label; `on.marked` is called with the ends of the stretch, `on.chosen` with a token of this text.
  constructor(on) {
    this.#on = on;
    threshold.addEventListener("input", () => this.#showStretch());
    how.addEventListener("change", () => this.#showStretch());
    where.addEventListener("change", () => {
      file.hidden = where.value !== "file";
      if (!file.hidden) file.click();
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      on.run("Searching…", (signal) => this.#search(signal));
    });
  }

  // Offers to search for what the selected unit does around the selected token, or in the selected tokens, unless only
  // some tokens have values.
  offer(found, chosen, column, request) {
    panel.hidden = chosen.layer === 0 || chosen.kind === "learn" || found.positions.length !== found.tokens.length;
    if (panel.hidden) return this.#on.marked(null);
    const isSame = this.#found === found && ["layer", "kind", "unit", "position"].every((name) => this.#chosen[name] === chosen[name]);
    if (isSame) return;
    if (this.#found !== found || this.#chosen.position !== chosen.position) this.#isSelected = false;
    [this.#found, this.#chosen, this.#request] = [found, { ...chosen }, request];
    const matrix = found.matrix(chosen.layer, chosen.kind);
    [this.#values, this.#most] = [matrix.column(column), matrix.most(column)];
    this.#between();
  }

  // Searches for what happens from one token to another.
  select(first, last) {
    if (panel.hidden) return;
    [this.#stretch, this.#isSelected] = [[first, last], true];
    this.#between();
  }

  // Sets the threshold halfway between the means of the stretch and of the text.
  #between() {
    const { position } = this.#chosen;
    const [first, last] = this.#isSelected ? this.#stretch : [position, position];
    const [inside, all] = [mean(this.#values.slice(first, last + 1)), mean(this.#values)];
    Object.assign(threshold, { min: -this.#most, max: this.#most, step: this.#most / 100 });
    threshold.value = (inside + all) / 2;
    this.#isAbove = inside >= all;
    this.#showStretch();
  }

  #showStretch() {
    const { unit, position } = this.#chosen;
    const limit = Number(threshold.value);
    shown.textContent = number(limit, 2);
    threshold.closest("label").hidden = how.value !== "level";
    if (!this.#isSelected) this.#stretch = runAt(this.#values, position, limit, this.#isAbove);
    const [first, last] = this.#stretch;
    const length = last - first + 1;
    const what = how.value === "level" ? `stays ${this.#isAbove ? "above" : "below"} ${number(limit, 2)}` : "has one shape";
    help.textContent = `In the underlined ${length === 1 ? "token" : `${length} tokens`}, unit ${unit} ${what}. Select other text to search for what it does there.`;
    this.#on.marked(this.#stretch);
    list.replaceChildren();
    status.textContent = "";
  }

  async #search(signal) {
    const [chosen, stretch, pattern] = [this.#chosen, this.#stretch, this.#values.slice(this.#stretch[0], this.#stretch[1] + 1)];
    const { layer, kind, unit } = chosen;
    const isOwn = where.value === "this";
    const text = isOwn ? this.#request.input : await this.#otherText(signal);
    const include = [["hidden", "cell"].includes(kind) ? kind : "gates"];
    const body = { model: this.#found.reference, input: text, labels: this.#request.labels, layers: [layer], units: [unit], include, logprobs: 0, go_backwards: this.#request.go_backwards };
    const read = await Inspection.of(body, signal);
    const matrix = read.matrix(layer, kind);
    const values = matrix.column(0);
    // The selection has changed meanwhile.
    if (this.#chosen !== chosen || this.#stretch !== stretch) return;
    const [first, last] = stretch;
    const isOther = ([from, to]) => !isOwn || to < first || from > last;
    const matches = (how.value === "level" ? runs(values, Number(threshold.value), this.#isAbove, pattern.length) : shapes(values, pattern)).filter(({ at }) => isOther(at));
    const most = matrix.strong(0);
    list.replaceChildren(...matches.slice(0, MAX_MATCHES).map((match) => this.#item(match, read.tokens, values, most, isOwn)));
    const rest = matches.length > MAX_MATCHES ? `, the ${MAX_MATCHES} most alike` : "";
    status.textContent = `${matches.length} found in ${count(read.tokens.length)} tokens${rest}.`;
  }

  // The file, or a text that the model writes.
  async #otherText(signal) {
    if (where.value === "file") {
      if (!file.files.length) throw new Failure("Choose a file to search first.");
      return beginning(await readText(file.files[0]), MAX_CHARACTERS);
    }
    const [model, { labels }] = [this.#found.reference, this.#request];
    const by = JSON.stringify({ model, labels });
    if (this.#written.by !== by) {
      const { choices } = await post("v1/completions", { model, labels, ...WRITTEN }, signal);
      this.#written = { by, text: choices.map((choice) => choice.text).join("\n\n") };
    }
    return this.#written.text;
  }

  #item({ at: [from, to], detail }, tokens, values, most, isOwn) {
    const part = (start, end) => tokens.slice(Math.max(0, start), end).map((token, i) => {
      const shownToken = make("span", { textContent: shownText(token).replaceAll("\n", "⏎") });
      shownToken.style.backgroundColor = themed(values[Math.max(0, start) + i], most);
      return shownToken;
    });
    const match = make("mark", {}, ...(to - from < 2 * ENDS ? part(from, to + 1) : [...part(from, from + ENDS), " … ", ...part(to + 1 - ENDS, to + 1)]));
    const link = make("a", {}, ...part(from - AROUND, from), match, ...part(to + 1, to + 1 + AROUND));
    const start = Math.max(0, from - LINKED);
    const { labels, go_backwards } = this.#request;
    const text = textOf(tokens.slice(start, to + LINKED));
    link.href = isOwn ? "#tokens" : `inspector${toHash({ model: this.#found.reference, labels, go_backwards, ...this.#chosen, text, position: from - start, color: "unit" })}`;
    if (isOwn) link.addEventListener("click", (event) => { event.preventDefault(); this.#on.chosen(from); });
    else link.target = "_blank";
    return make("li", {}, link, make("span", { className: "help", textContent: detail }));
  }
}

/** @typedef {{ at: [number, number], detail: string }} Match */

// Runs of values on one side of a threshold, those closest to `length` first: first and last index.
/** @returns {Match[]} */
function runs(values, limit, isAbove, length) {
  /** @type {Match[]} */
  const found = [];
  for (let from = 0; from < values.length; from++) {
    if (values[from] >= limit !== isAbove) continue;
    const [, to] = runAt(values, from, limit, isAbove);
    found.push({ at: [from, to], detail: `${to - from + 1} tokens, mean ${number(mean(values.slice(from, to + 1)), 2)}` });
    from = to;
  }
  const difference = ({ at: [from, to] }) => Math.abs(Math.log((to - from + 1) / length));
  return found.filter((each) => difference(each) < Math.LN2 || length < 3).sort((one, other) => difference(one) - difference(other));
}

// Places without overlap where values are as in a pattern, the most similar first, differing from it by at most half as
// much as places of the same text do on average.
/** @returns {Match[]} */
function shapes(values, pattern) {
  const distances = Array.from({ length: Math.max(0, values.length - pattern.length + 1) }, (_, from) =>
    Math.sqrt(mean(pattern.map((value, i) => (values[from + i] - value) ** 2))));
  const limit = mean(distances) / 2;
  const taken = new Uint8Array(values.length);
  return distances.map((distance, from) => ({ distance, from })).sort((one, other) => one.distance - other.distance)
    .filter(({ distance, from }) => {
      const to = from + pattern.length;
      if (distance > limit || taken[from] || taken[to - 1]) return false;
      taken.fill(1, from, to);
      return true;
    })
    .map(({ distance, from }) => /** @type {Match} */ ({ at: [from, from + pattern.length - 1], detail: `differs by ${number(distance, 2)} on average` }));
}

// First and last index of the run around a place.
/** @returns {[number, number]} */
function runAt(values, place, limit, isAbove) {
  const isIn = (index) => index >= 0 && index < values.length && values[index] >= limit === isAbove;
  let [first, last] = [place, place];
  while (isIn(first - 1)) first--;
  while (isIn(last + 1)) last++;
  return [first, last];
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / (values.length || 1);
}
