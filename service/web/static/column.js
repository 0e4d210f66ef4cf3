// One generated text: its model and sampling parameters, its tokens as they arrive, and branching.

import { indexByKey } from "./dom.js";
import { FIELDS, requestFields } from "./fields.js";
import { toHash } from "./link.js";
import { ModelChoice } from "./models.js";
import { setTokenText } from "./format.js";
import { showToken } from "./token.js";

const ALTERNATIVES = 5;
const FINISH_REASONS = { length: "length (Max tokens)", stop: "stop (EOS token or stop string)" };

export class Column {
  #tokens = [];
  // Requests that generated the text: each continues after `count` tokens, with the seed of its response.
  #origins = [];
  #choice;
  #inputs = {};
  #output;
  #statistics;
  #inspectorLink;
  #prompt = "";
  #on;

  // `values` are those of the fields by name, and `model`; `on` has the callbacks `changed` and `branch`.
  constructor(number, models, values, on) {
    this.#on = on;
    this.number = number;
    this.element = document.getElementById("column").content.firstElementChild.cloneNode(true);
    this.#output = this.element.querySelector(".output");
    [this.#statistics, this.#inspectorLink] = this.element.querySelector(".statistics").children;
    this.#output.setAttribute("aria-label", `Completion ${number + 1}`);
    const fields = this.element.querySelector(".fields");
    this.#choice = new ModelChoice(this.#select(fields, "model", "Model"), this.#select(fields, "version", "Version"), on.changed);
    for (const field of FIELDS) this.#inputs[field.name] = this.#field(fields, field, values[field.name] ?? field.value);
    this.showModels(models, values.model);
    this.#output.addEventListener("click", (event) => this.#open(event.target.closest(".token")));
    this.#output.addEventListener("keydown", (event) => this.#move(event));
  }

  get values() {
    const values = { model: this.#choice.reference };
    for (const { name } of FIELDS) values[name] = this.#inputs[name].value;
    return values;
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
    this.#origins = [{ count: 0, body: { model: this.#choice.reference, [this.#promptField]: prompt } }];
    await this.#readStream(signal, stream);
  }

  // Continues after the tokens before `position` and another token there, from the state at that position.
  async branch(position, token, signal, { post, stream }) {
    const origins = this.#origins.filter(({ count }) => count <= position);
    const { count, body, seed, fields } = origins.at(-1);
    const before = await post("v1/completions", {
      ...fields, ...body, seed, max_tokens: position - count, stop: undefined, logprobs: undefined, return_state: true,
    }, signal);
    this.#show([...this.#tokens.slice(0, position), { ...token, branched: true }]);
    this.#origins = [...origins, {
      count: position + 1, body: { state: before.choices[0].state, [this.#promptField]: token.text, ...(token.same ? newSeed() : {}) },
    }];
    await this.#readStream(signal, stream);
  }

  #show(tokens) {
    this.#tokens = [];
    this.#output.replaceChildren();
    tokens.forEach((token) => this.#add(token));
  }

  get #promptField() {
    return this.direction === "backward" ? "suffix" : "prompt";
  }

  // Sends the last request and reads its stream to the end.
  async #readStream(signal, stream) {
    const origin = this.#origins.at(-1);
    origin.fields = { ...requestFields(this.values), logprobs: ALTERNATIVES };
    if (this.#origins.length > 1) delete origin.fields.seed; // the resume token has it
    const body = { ...origin.fields, ...origin.body, stream_options: { prepend: this.direction === "backward" } };
    const began = performance.now();
    const before = this.#tokens.length;
    let reason = null;
    this.#statistics.textContent = "";
    this.#inspectorLink.hidden = true;
    try {
      for await (const chunk of stream("v1/completions", body, signal)) {
        origin.seed = chunk.seed ?? origin.seed;
        for (const choice of chunk.choices) {
          tokensOf(choice).forEach((token) => this.#add(token));
          reason = choice.finish_reason ?? reason;
        }
      }
    } finally {
      this.#linkInspector();
    }
    const seconds = (performance.now() - began) / 1000;
    const count = this.#tokens.length - before;
    this.#statistics.textContent =
      `${count} tokens, ${Math.round(count / seconds)} tokens/s · seed ${origin.seed} · finish reason: ${FINISH_REASONS[reason] ?? reason}`;
  }

  // Links to the inspector with prompt and generated text, in reading order.
  #linkInspector() {
    const whole = [this.#prompt, this.#output.textContent];
    if (this.direction === "backward") whole.reverse();
    this.#inspectorLink.href = `inspector${toHash({ model: this.#choice.reference, text: whole.join("") })}`;
    this.#inspectorLink.hidden = false;
  }

  #add(token) {
    const position = this.#tokens.push(token) - 1;
    // No <button>: browsers put a box around one, which would break lines within words and hide the text's own.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.className = "token";
    button.dataset.position = position;
    button.tabIndex = position === 0 ? 0 : -1;
    setTokenText(button, token.text);
    if (token.branched) button.classList.add("branched");
    if (token.logprob !== null && token.logprob !== undefined) button.style.setProperty("--sure", Math.exp(token.logprob));
    this.direction === "backward" ? this.#output.prepend(button) : this.#output.append(button);
  }

  #open(button) {
    if (!button) return;
    const position = Number(button.dataset.position);
    showToken(this.#tokens[position], (token) => this.#on.branch(this, position, token));
  }

  // Arrow keys move the focus, Enter and Space open a token; Tab leaves the text.
  #move(event) {
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

  #field(parent, { name, label: text, kind, min, max, step, help }, value) {
    const id = `${name}-${this.number}`;
    const { label, control } = labelled("input", id, text);
    Object.assign(control, { type: kind, min, max, step, value });
    const described = document.createElement("span");
    described.id = `${id}-help`;
    described.className = "help";
    described.textContent = help;
    control.setAttribute("aria-describedby", described.id);
    const shown = document.createElement("output");
    shown.htmlFor = id;
    const show = () => { shown.textContent = kind === "range" ? control.value : ""; };
    control.addEventListener("input", () => { show(); this.#on.changed(); });
    show();
    label.append(shown, control);
    const field = document.createElement("div");
    field.append(label, described);
    parent.append(field);
    return control;
  }
}

function labelled(tag, id, text) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  name.textContent = text;
  const control = document.createElement(tag);
  control.id = id;
  label.htmlFor = id;
  label.append(name);
  return { label, control };
}

// With the seed of the resume token the same token would be followed by the same text.
function newSeed() {
  return { seed: Math.floor(Math.random() * Number.MAX_SAFE_INTEGER) };
}

// The tokens of a chunk, in order of generation.
function tokensOf({ text, logprobs, prepend }) {
  if (!logprobs) return text ? [{ text, logprob: null, alternatives: {} }] : [];
  const tokens = logprobs.tokens.map((token, i) => ({
    text: token, logprob: logprobs.token_logprobs[i], alternatives: logprobs.top_logprobs[i] ?? {},
  }));
  return prepend ? tokens.reverse() : tokens;
}
