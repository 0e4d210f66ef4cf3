// One generated text: its model, sampling parameters, tokens as they arrive, continuations and branches.

import { stream } from "./api.js";
import { hideFailure } from "./attempt.js";
import { partings, showBranches } from "./branches.js";
import { branchBody, resumeToken } from "./branching.js";
import { WrittenText } from "./components/written_text.js";
import { keepText } from "./current_text.js";
import { PHONE, find, labeled } from "./dom.js";
import { requestFields } from "./fields.js";
import { Form } from "./form.js";
import { count, textOf } from "./format.js";
import { LabelChoice } from "./label_choice.js";
import { toHash } from "./link.js";
import { ModelChoice } from "./model_choice.js";
import { showToken } from "./components/token_popover.js";

// A phone, where the settings are a sheet at the bottom.
const NARROW = matchMedia(PHONE);
const ALTERNATIVES = 5;
const MAX_KEPT = 20;

export class Column {
  #choice;
  #labels;
  #form;
  // The text's element, legend and statistics.
  #box;
  #text;
  #statistics;
  #inspectorLink;
  #undo;
  #reuseSeed;
  #branches;
  // The shown text: see `begun`; null before the first one.
  #shown = null;
  // The earlier texts of this column, the newest last.
  #texts = [];
  #on;

  // `values` has the fields by name, and `model`; `on` has the callbacks `changed` and `branch`, and `idle`, which runs a
  // function unless a request is running.
  constructor(number, models, values, on) {
    this.#on = on;
    this.number = number;
    this.element = find("column").content.firstElementChild.cloneNode(true);
    this.#box = this.element.querySelector(".text");
    const output = this.element.querySelector(".output");
    output.setAttribute("aria-label", `Completion ${number + 1}`);
    this.#text = new WrittenText(output, (position) => this.#open(position));
    [this.#statistics, this.#inspectorLink, this.#undo, this.#reuseSeed] = this.element.querySelector(".statistics").children;
    this.#branches = this.element.querySelector(".branches");
    this.#undo.addEventListener("click", () => on.idle(() => this.#restore(this.#shown.from)));
    this.#reuseSeed.addEventListener("click", () => {
      this.#form.fill({ seed: String(this.#shown.origins[0].seed) });
      this.#hide(this.#reuseSeed);
    });
    const settings = this.element.querySelector(".settings");
    settings.ariaLabel = `Settings ${number + 1}`;
    const fit = () => { settings.popover = NARROW.matches ? "auto" : null; };
    NARROW.addEventListener("change", fit);
    fit();
    const main = this.element.querySelector(".fields");
    const [name, version] = [this.#select(main, "model", "Model"), this.#select(main, "version", "Version")];
    this.#choice = new ModelChoice(name, version, () => {
      this.#labels.show(this.model);
      on.changed();
    });
    this.#labels = new LabelChoice(version.closest("label"), number, on.changed);
    this.#form = new Form(number, settings, values, on.changed);
    this.#choice.show(models, values.model);
    this.#labels.show(this.model, values.labels);
  }

  get values() {
    return { model: this.#choice.reference, labels: this.#labels.chosen, ...this.#form.values };
  }

  get direction() {
    return this.#choice.model?.direction;
  }

  get model() {
    return this.#choice.model;
  }

  get canContinue() {
    return this.#shown !== null && this.#shown.origins.length > 0 && this.#shown.tokens.length > 0;
  }

  // The values for a link, with the recipe of the shown text if that has its prompt, model and labels.
  linked(prompt) {
    const { values } = this;
    const isOfText = this.canContinue && this.#shown.prompt === prompt && modelOf(this.#shown.generated.values) === modelOf(values);
    return { ...values, recipe: isOfText ? recipeOf(this.#shown, values) : undefined };
  }

  // Whether one request returns the whole shown text: it has no branch, and does not continue after an end or, as Max
  // tokens limits how a match ends, with a pattern.
  get isOneRequest() {
    const { tokens = [], origins = [] } = this.#shown ?? {};
    const isContinuedMatch = origins.length > 1 && origins.some(({ fields }) => fields.structured_outputs);
    return !isContinuedMatch && !tokens.some(({ branched, isEnd }, i, all) => branched || (isEnd && i < all.length - 1));
  }

  // The body of the request for a prompt, with the shown text's seed, and its length if it was continued, so that the
  // request returns that text.
  request(prompt) {
    const { model, ...values } = this.values;
    const fields = requestFields(values);
    const seed = fields.seed ?? this.#shown?.origins[0]?.seed;
    if (this.#shown?.origins.length > 1 && this.isOneRequest) fields.max_tokens = this.#shown.tokens.length;
    return { model, [this.direction === "backward" ? "suffix" : "prompt"]: prompt, ...fields, ...(seed !== undefined && { seed }) };
  }

  // Titles the column with the settings of its present or next text.
  showTitle() {
    const { model, temperature } = this.#shown?.generated.values ?? this.values;
    this.element.querySelector("h2").textContent = `${this.number + 1}: ${model}, temperature ${temperature}`;
  }

  // Shows the settings, a sheet on a phone.
  showSettings() {
    this.element.querySelector(".settings").showPopover();
  }

  showModels(models, reference) {
    this.#choice.show(models, reference);
    this.#labels.show(this.model);
  }

  remove() {
    this.element.remove();
  }

  // Generates a text from the prompt and shows it as it arrives; the last text stays until then.
  async generate(prompt, signal, fields = {}) {
    const isBackward = this.direction === "backward";
    const [promptField, model] = [isBackward ? "suffix" : "prompt", this.#choice.reference];
    const origin = { count: 0, body: { model, [promptField]: prompt }, override: fields };
    const values = { ...this.values, ...fields.values };
    await this.#explained(() => this.#readStream(signal, origin, () => {
      this.#begin(begun(prompt, { model, promptField, isBackward, values }, this.#shown));
    }));
  }

  // Continues the text from the resume token, as one longer request would have.
  async continue(signal, fields = {}) {
    await this.#explained(async () => {
      const shown = this.#shown;
      const last = shown.origins.at(-1);
      const texts = shown.tokens.slice(last.count).map(({ text }) => text);
      shown.state ??= await resumeToken(last, texts, shown.generated, signal);
      await this.#readStream(signal, { count: shown.tokens.length, body: { state: shown.state }, override: fields });
    });
  }

  // Branches with a token at `position`, from the state there.
  async branch(position, token, signal, fields = {}) {
    await this.#explained(() => this.#branch(position, token, signal, fields));
  }

  async #branch(position, token, signal, override) {
    const { prompt, generated, tokens } = this.#shown;
    const origins = this.#shown.origins.filter(({ count }) => count <= position);
    const texts = tokens.slice(origins.at(-1).count, position).map(({ text }) => text);
    const values = { ...this.values, ...override.values };
    const { body, isComplete } = await branchBody(origins.at(-1), texts, token, requestFields(values), generated, signal);
    const { hasFocus } = this.#text;
    this.#begin({ ...begun(prompt, { ...generated }, this.#shown, position), origins }, [...tokens.slice(0, position), { ...token, branched: true }]);
    if (hasFocus) this.#text.focus(position);
    const origin = { count: position + 1, body, token, override };
    if (!isComplete) return this.#readStream(signal, origin);
    this.#shown.origins.push({ ...origin, seed: body.seed, values, fields: {} });
    this.#shown.state = body.state;
    this.#text.tokens.at(-1).isEnd = true;
    this.#statistics.textContent = "The branch completes the match.";
    this.#linkInspector();
    this.#showBranches();
  }

  // Regenerates the text of a link: the first request, then its branches and continuations.
  async replay(prompt, recipe, signal) {
    for (const [i, { at, text, same, seed, num_tokens: count, ended, values }] of recipe.entries()) {
      // Other text is the beginning of a match.
      const fields = { values, max_tokens: count, ...(!ended && { complete_within_max_tokens: false }) };
      if (i === 0) await this.generate(prompt, signal, { seed, ...fields });
      else if (at === undefined) await this.continue(signal, fields);
      else await this.branch(at, { text, same, seed, alternatives: {} }, signal, fields);
    }
  }

  // Shows a beginning text with the tokens that it already has; the one that it replaces is kept.
  #begin(text, tokens = []) {
    const kept = new Set([...this.#texts, text].slice(-MAX_KEPT));
    // The text that a branch diverges from, perhaps a branch itself, is kept.
    for (const { at, from } of kept) if (at !== null) kept.add(from);
    this.#texts = [...this.#texts, text].filter((each) => kept.has(each));
    // Unreachable texts are freed.
    this.#texts.filter(({ at, from }) => at === null && !this.#texts.includes(from)).forEach((first) => { first.from = null; });
    this.#show(text, tokens);
  }

  #show(text, tokens) {
    this.#shown = text;
    this.#text.begin(text.prompt, text.generated.isBackward, tokens);
    text.tokens = this.#text.tokens;
    this.showTitle();
    this.#showBranches();
  }

  #restore(text) {
    hideFailure(); // what failed was about the text before
    this.#show(text, text.tokens);
    this.#statistics.textContent = `${numTokens(text.tokens.length)} · seed ${text.origins[0]?.seed} · restored`;
    this.#linkInspector();
    this.#on.changed();
  }

  // Hides a button; its focus moves to the link beside it.
  #hide(button) {
    if (button === document.activeElement) this.#inspectorLink.focus({ preventScroll: true });
    button.hidden = true;
  }

  #showBranches() {
    const shown = this.#shown;
    [this.#undo.hidden, this.#reuseSeed.hidden] = [false, false];
    if (!this.#texts.includes(shown.from)) this.#hide(this.#undo);
    if (!this.canContinue || this.#form.values.seed !== "") this.#hide(this.#reuseSeed);
    showBranches(this.#branches, this.#texts, shown, {
      hrefOf: (text) => toHash({ prompt: text.prompt, columns: [{ ...text.generated.values, recipe: recipeOf(text, text.generated.values) }] }),
      opened: (text) => this.#on.idle(() => this.#restore(text)),
    });
    partings(shown, this.#texts).forEach((position) => this.#text.elementOf(position)?.classList.add("parting"));
  }

  // Runs a function that sends requests; an error is shown beside its field.
  async #explained(work) {
    this.#form.clearErrors();
    try {
      await work();
    } catch (error) {
      this.#form.showError(error);
      throw error;
    }
  }

  // Sends a request and reads its stream to the end; `begins` is called before the first token is shown.
  async #readStream(signal, origin, begins = () => {}) {
    const { values, ...fields } = origin.override;
    origin.values = { ...this.values, ...values };
    origin.fields = { ...requestFields(origin.values), logprobs: ALTERNATIVES, return_state: true, ...fields };
    if (origin.body.state) ["seed", "labels"].forEach((name) => delete origin.fields[name]); // the resume token has them
    const isBackward = (origin.body.state ? this.#shown.generated.isBackward : this.direction === "backward");
    const body = { ...origin.fields, ...origin.body, stream_options: { prepend: isBackward } };
    const began = performance.now();
    let [before, reason] = [this.#text.tokens.length, null];
    try {
      for await (const chunk of stream("v1/completions", body, signal)) {
        if (origin.seed === undefined) {
          begins();
          before = this.#text.tokens.length;
          this.#shown.origins.push(origin);
          this.#shown.state = null;
        }
        origin.seed = chunk.seed ?? origin.seed ?? null;
        // Branches regenerate the text by the same version, even if another one has been promoted.
        if (!origin.body.state) origin.body.model = this.#shown.generated.model = `${chunk.model}:${chunk.version}`;
        for (const choice of chunk.choices) {
          this.#text.add(tokensOf(choice));
          reason = choice.finish_reason ?? reason;
          origin.ended = reason !== null;
          this.#shown.state = choice.state ?? this.#shown.state;
        }
        this.#count(before, began, origin, reason ? `finish reason: ${reason}` : "generating");
      }
    } finally {
      const last = this.#text.tokens.at(-1);
      if (last && reason === "stop") last.isEnd = true;
      this.#text.flush();
      // Without a seed, the response has not begun.
      if (origin.seed !== undefined) {
        this.#count(before, began, origin, reason ? `finish reason: ${reason}` : "incomplete");
        this.#linkInspector();
        this.#showBranches();
      }
    }
  }

  #count(before, began, { seed }, end) {
    const added = this.#text.tokens.length - before;
    const all = before ? ` of ${count(this.#text.tokens.length)}` : "";
    this.#statistics.textContent = `${numTokens(added)}${all}, ${Math.round((1000 * added) / (performance.now() - began))} tokens/s · seed ${seed} · ${end}`;
  }

  // The model, prompt and generated text in reading order, and its given labels, if any.
  get whole() {
    const { model, isBackward } = this.#shown.generated;
    const tokens = this.#text.tokens.map(({ text }) => text);
    const whole = [this.#shown.prompt, textOf(isBackward ? tokens.reverse() : tokens)];
    if (isBackward) whole.reverse();
    return { model, text: whole.join(""), labels: this.#shown.origins[0]?.fields.labels };
  }

  // Hides the text, legend and statistics until the text is typed.
  hideText() {
    this.#box.style.visibility = "hidden";
  }

  showText() {
    this.#box.style.visibility = "";
    this.#text.show();
  }

  unpaint() {
    this.#text.unpaint();
  }

  // Types the text token by token over `seconds`; `colors` has one for each token of prompt and text.
  async type(colors, seconds, signal) {
    const typed = this.#text.type(colors.slice(-this.#text.tokens.length), seconds, signal);
    this.#box.style.visibility = "";
    await typed;
  }

  #linkInspector() {
    keepText(this.whole);
    this.#inspectorLink.href = `inspector${toHash(this.whole)}`;
    this.#inspectorLink.hidden = false;
  }

  #open(position) {
    const token = this.#text.tokens[position];
    if (!token) return;
    showToken(token, this.#text.elementOf(position), {
      branch: (other) => this.#on.branch(this, position, other),
      walk: (steps) => this.#open(position + (this.#shown.generated.isBackward ? -steps : steps)),
    });
  }

  #select(parent, name, text) {
    const { label, control } = labeled("select", `${name}-${this.number}`, text);
    label.append(control);
    parent.append(label);
    return control;
  }
}

// A text that begins. `generated` has its model, direction, prompt field and settings, whatever is selected meanwhile;
// `origins` are the requests that generated it: each, with its settings and the seed of its response, continues after
// `count` tokens, the last of them a branch's `token`, if any; `state` is the resume token after the last token, if it
// has arrived; `from` is the text that it replaced, and `at` the position where a branch diverges from that.
function begun(prompt, generated, from, at = null) {
  return { prompt, generated, origins: [], state: null, tokens: [], from, at };
}

function modelOf({ model, labels }) {
  return JSON.stringify([model, labels]);
}

// The recipe of a text for `replay`; undefined before its first response. A step has the settings that differ from those
// of the link. A request that `ended`, neither stopped nor cut by a branch, has its own limit of tokens: it ends there
// again, as at a stop string or an EOS token.
function recipeOf({ origins, tokens }, linked) {
  if (origins[0]?.seed === undefined) return undefined;
  return origins.map(({ count, seed, token, fields, ended, values: { model, labels, ...values } }, i) => {
    const next = origins[i + 1] ?? { count: tokens.length };
    const isWhole = ended && !next.token && fields.complete_within_max_tokens !== false;
    const numTokens = isWhole ? fields.max_tokens : Math.max(0, next.count - Number(Boolean(next.token)) - count);
    const changed = Object.entries(values).filter(([name, value]) => value !== linked[name] && !["seed", "max_tokens"].includes(name));
    return { seed, num_tokens: numTokens, ...(changed.length && { values: Object.fromEntries(changed) }), ...(isWhole && { ended }), ...(token && { at: count - 1, text: token.text, same: token.same }) };
  });
}

function numTokens(number) {
  return `${count(number)} ${number === 1 ? "token" : "tokens"}`;
}

// The tokens of a chunk, in order of generation.
function tokensOf({ text, logprobs, prepend }) {
  if (!logprobs) return text ? [{ text, logprob: null, alternatives: {} }] : [];
  const tokens = logprobs.tokens.map((token, i) => ({
    text: token, logprob: logprobs.token_logprobs[i], alternatives: logprobs.top_logprobs[i] ?? {},
  }));
  return prepend ? tokens.reverse() : tokens;
}
