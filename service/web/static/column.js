// One generated text: its model and sampling parameters, its tokens as they arrive, and branching.

import { branchBody } from "./branching.js";
import { indexByKey, labelled } from "./dom.js";
import { requestFields } from "./fields.js";
import { Form } from "./form.js";
import { toHash } from "./link.js";
import { ModelChoice } from "./model_choice.js";
import { isPartial, setTokenText, textOf } from "./format.js";
import { showToken } from "./token.js";

const ALTERNATIVES = 5;
const FINISH_REASONS = { length: "length (Max tokens)", stop: "stop (EOS token, stop string or complete match)" };

export class Column {
  #tokens = [];
  // Requests that generated the text: each continues after `count` tokens, with the seed of its response.
  #origins = [];
  #choice;
  #form;
  #output;
  #statistics;
  #inspectorLink;
  #prompt = "";
  // Model, direction and field of the prompt of the shown text, whatever is selected meanwhile.
  #generated;
  #on;

  // `values` are those of the fields by name, and `model`; `on` has the callbacks `changed` and `branch`.
  constructor(number, models, values, on) {
    this.#on = on;
    this.number = number;
    this.element = document.getElementById("column").content.firstElementChild.cloneNode(true);
    this.#output = this.element.querySelector(".output");
    [this.#statistics, this.#inspectorLink] = this.element.querySelector(".statistics").children;
    this.#output.setAttribute("aria-label", `Completion ${number + 1}`);
    const [sampling, constraints] = this.element.querySelectorAll("details");
    const fields = sampling.querySelector(".fields");
    this.#choice = new ModelChoice(this.#select(fields, "model", "Model"), this.#select(fields, "version", "Version"), on.changed);
    this.#form = new Form(number, sampling, constraints, values, on.changed);
    this.showModels(models, values.model);
    this.#output.addEventListener("click", (event) => this.#open(event.target.closest(".token")));
    this.#output.addEventListener("keydown", (event) => this.#move(event));
  }

  get values() {
    return { model: this.#choice.reference, ...this.#form.values };
  }

  get direction() {
    return this.#choice.model?.direction;
  }

  showTitle(several) {
    this.element.querySelector("h2").textContent = several ? `Completion ${this.number + 1}` : "Completion";
  }

  showModels(models, reference) {
    this.#choice.show(models, reference);
  }

  remove() {
    this.element.remove();
  }

  // Generates a text from the prompt, and shows it as it arrives.
  async generate(prompt, signal, stream) {
    this.#show([]);
    this.#prompt = prompt;
    const isBackward = this.direction === "backward";
    const promptField = isBackward ? "suffix" : "prompt";
    const model = this.#choice.reference;
    this.#generated = { model, promptField, isBackward };
    this.#origins = [{ count: 0, body: { model, [promptField]: prompt } }];
    await this.#explained(() => this.#readStream(signal, stream));
  }

  // Continues after the tokens before `position` and another token there, from the state at that position.
  async branch(position, token, signal, requests) {
    await this.#explained(() => this.#branch(position, token, signal, requests));
  }

  async #branch(position, token, signal, { post, stream }) {
    const origins = this.#origins.filter(({ count }) => count <= position);
    const texts = this.#tokens.slice(origins.at(-1).count, position).map(({ text }) => text);
    const send = (path, fields) => post(path, fields, signal);
    const body = await branchBody(origins.at(-1), texts, token, requestFields(this.values), this.#generated, send);
    // The dialog returned the focus to a token that will be gone; it may be elsewhere by now.
    const hasFocus = this.#output.contains(document.activeElement);
    this.#show([...this.#tokens.slice(0, position), { ...token, branched: true }]);
    if (hasFocus) this.#output.querySelector(`[data-position="${position}"]`).focus();
    if (body === null) {
      this.#origins = origins;
      this.#statistics.textContent = "The branch completes the match.";
      this.#linkInspector();
      return;
    }
    this.#origins = [...origins, { count: position + 1, body }];
    await this.#readStream(signal, stream);
  }

  // Does something that sends requests, and shows an error beside the field that it is about.
  async #explained(work) {
    this.#form.clearErrors();
    try {
      await work();
    } catch (error) {
      this.#form.showError(error);
      throw error;
    }
  }

  #show(tokens) {
    this.#tokens = [];
    this.#output.replaceChildren();
    tokens.forEach((token) => this.#add(token));
  }

  // Sends the last request and reads its stream to the end.
  async #readStream(signal, stream) {
    const origin = this.#origins.at(-1);
    origin.fields = { ...requestFields(this.values), logprobs: ALTERNATIVES };
    if (this.#origins.length > 1) delete origin.fields.seed; // the resume token has it
    const body = { ...origin.fields, ...origin.body, stream_options: { prepend: this.#generated.isBackward } };
    const began = performance.now();
    const before = this.#tokens.length;
    let reason = null;
    this.#statistics.textContent = "";
    this.#inspectorLink.hidden = true;
    try {
      for await (const chunk of stream("v1/completions", body, signal)) {
        origin.seed = chunk.seed ?? origin.seed;
        // Branches generate the text again, by the same version, even if another one has been promoted.
        if (!origin.body.state) origin.body.model = this.#generated.model = `${chunk.model}:${chunk.version}`;
        for (const choice of chunk.choices) {
          tokensOf(choice).forEach((token) => this.#add(token));
          reason = choice.finish_reason ?? reason;
        }
      }
    } finally {
      this.#linkInspector();
      const seconds = (performance.now() - began) / 1000;
      const count = this.#tokens.length - before;
      const rate = `${count} tokens, ${Math.round(count / seconds)} tokens/s`;
      const end = reason ? `finish reason: ${FINISH_REASONS[reason] ?? reason}` : "incomplete";
      // Without a seed, no response has begun.
      if (origin.seed !== undefined) this.#statistics.textContent = `${rate} · seed ${origin.seed} · ${end}`;
    }
  }

  // Links to the inspector with prompt and generated text, in reading order.
  #linkInspector() {
    const { model, isBackward } = this.#generated;
    const labels = this.#tokens.map(({ text }) => text);
    const whole = [this.#prompt, textOf(isBackward ? labels.reverse() : labels)];
    if (isBackward) whole.reverse();
    this.#inspectorLink.href = `inspector${toHash({ model, text: whole.join("") })}`;
    this.#inspectorLink.hidden = false;
  }

  #add(token) {
    const position = this.#tokens.push(token) - 1;
    // Not a <button>: its inline-block box would allow a line break inside a word, and swallow the text's own line breaks.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.className = "token";
    button.dataset.position = position;
    button.tabIndex = position === 0 ? 0 : -1;
    setTokenText(button, isPartial(token.text) ? "�" : token.text);
    if (token.branched) button.classList.add("branched");
    if (token.logprob !== null && token.logprob !== undefined) button.style.setProperty("--sure", Math.exp(token.logprob));
    this.#generated.isBackward ? this.#output.prepend(button) : this.#output.append(button);
  }

  #open(button) {
    if (!button) return;
    const position = Number(button.dataset.position);
    showToken(this.#tokens[position], (token) => this.#on.branch(this, position, token));
  }

  // Arrow keys move the focus, Enter and Space open a token; Tab leaves the text.
  #move(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#open(document.activeElement.closest(".token"));
      return;
    }
    const tokens = [...this.#output.children];
    const index = tokens.indexOf(document.activeElement);
    const next = indexByKey(event.key, index, tokens.length);
    if (index < 0 || next === undefined) return;
    event.preventDefault();
    tokens[index].tabIndex = -1;
    tokens[next].tabIndex = 0;
    tokens[next].focus();
  }

  #select(parent, name, text) {
    const { label, control } = labelled("select", `${name}-${this.number}`, text);
    label.append(control);
    parent.append(label);
    return control;
  }
}

// The tokens of a chunk, in order of generation.
function tokensOf({ text, logprobs, prepend }) {
  if (!logprobs) return text ? [{ text, logprob: null, alternatives: {} }] : [];
  const tokens = logprobs.tokens.map((token, i) => ({
    text: token, logprob: logprobs.token_logprobs[i], alternatives: logprobs.top_logprobs[i] ?? {},
  }));
  return prepend ? tokens.reverse() : tokens;
}
