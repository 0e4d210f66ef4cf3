// One text: which model writes it and how, its tokens as they come, and where it can branch.

import { FIELDS, requestFields } from "./fields.js";
import { toHash } from "./link.js";
import { ModelChoice } from "./models.js";
import { speakable } from "./format.js";
import { showToken } from "./token.js";

const ALTERNATIVES = 5;

export class Column {
  #tokens = [];
  // Requests that the text is made of: each goes on behind so many tokens, with the seed that it got.
  #origins = [];
  #choice;
  #inputs = {};
  #output;
  #figures;
  #inside;
  #prompt = "";
  #on;

  // `values` are those of the fields, by name, and `model`; `on` has `changed` and `branch`.
  constructor(number, models, values, on) {
    this.#on = on;
    this.number = number;
    this.element = document.getElementById("column").content.firstElementChild.cloneNode(true);
    this.#output = this.element.querySelector(".output");
    [this.#figures, this.#inside] = this.element.querySelector(".figures").children;
    this.#output.setAttribute("aria-label", `Text ${number + 1}`);
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

  get reads() {
    return this.#choice.model?.direction;
  }

  showTitle(several) {
    this.element.querySelector("h2").textContent = several ? `Text ${this.number + 1}` : "Text";
  }

  showModels(models, reference) {
    this.#choice.show(models, reference);
  }

  remove() {
    this.element.remove();
  }

  // Writes a text from its beginning, and shows it as it comes.
  async write(prompt, signal, stream) {
    this.#show([]);
    this.#prompt = prompt;
    this.#origins = [{ count: 0, body: { model: this.#choice.reference, [this.#reads]: prompt } }];
    await this.#follow(signal, stream);
  }

  // Goes on behind the tokens before `place`, with another token there, from the state of the text at that place.
  async branch(place, token, signal, { post, stream }) {
    const origins = this.#origins.filter(({ count }) => count <= place);
    const { count, body, seed, fields } = origins.at(-1);
    const before = await post("v1/completions", {
      ...fields, ...body, seed, max_tokens: place - count, stop: undefined, logprobs: undefined, return_state: true,
    }, signal);
    this.#show([...this.#tokens.slice(0, place), { ...token, branched: true }]);
    this.#origins = [...origins, {
      count: place + 1, body: { state: before.choices[0].state, [this.#reads]: token.text, ...(token.same ? newSeed() : {}) },
    }];
    await this.#follow(signal, stream);
  }

  #show(tokens) {
    this.#tokens = [];
    this.#output.replaceChildren();
    tokens.forEach((token) => this.#add(token));
  }

  get #reads() {
    return this.reads === "backward" ? "suffix" : "prompt";
  }

  // Reads the last request's stream to its end.
  async #follow(signal, stream) {
    const origin = this.#origins.at(-1);
    origin.fields = { ...requestFields(this.values), logprobs: ALTERNATIVES };
    if (this.#origins.length > 1) delete origin.fields.seed; // the state has it, and where it stands
    const body = { ...origin.fields, ...origin.body, stream_options: { prepend: this.reads === "backward" } };
    const began = performance.now();
    const before = this.#tokens.length;
    let reason = null;
    this.#figures.textContent = "";
    this.#inside.hidden = true;
    try {
      for await (const chunk of stream("v1/completions", body, signal)) {
        origin.seed = chunk.seed ?? origin.seed;
        for (const choice of chunk.choices) {
          tokensOf(choice).forEach((token) => this.#add(token));
          reason = choice.finish_reason ?? reason;
        }
      }
    } finally {
      this.#offerInspector();
    }
    const seconds = (performance.now() - began) / 1000;
    const count = this.#tokens.length - before;
    this.#figures.textContent =
      `${count} tokens, ${Math.round(count / seconds)} a second · seed ${origin.seed} · ${reason === "stop" ? "came to its end" : "as long as was asked for"}`;
  }

  // A link to the inspector with the prompt and what was written so far, in order of reading.
  #offerInspector() {
    const whole = [this.#prompt, this.#output.textContent];
    if (this.reads === "backward") whole.reverse();
    this.#inside.href = `inspector${toHash({ model: this.#choice.reference, text: whole.join("") })}`;
    this.#inside.hidden = false;
  }

  #add(token) {
    const place = this.#tokens.push(token) - 1;
    // No <button>: browsers put a box around one, which would break lines within words and hide the text's own.
    const button = document.createElement("span");
    button.setAttribute("role", "button");
    button.className = "token";
    button.dataset.place = place;
    button.tabIndex = place === 0 ? 0 : -1;
    button.textContent = token.text;
    if (!token.text.trim()) button.setAttribute("aria-label", speakable(token.text));
    if (token.branched) button.classList.add("branched");
    if (token.logprob !== null && token.logprob !== undefined) button.style.setProperty("--sure", Math.exp(token.logprob));
    this.reads === "backward" ? this.#output.prepend(button) : this.#output.append(button);
  }

  #open(button) {
    if (!button) return;
    const place = Number(button.dataset.place);
    showToken(this.#tokens[place], (token) => this.#on.branch(this, place, token));
  }

  // Arrow keys go from token to token, Enter and the blank open one; Tab goes past the text.
  #move(event) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#open(document.activeElement.closest(".token"));
      return;
    }
    const tokens = [...this.#output.children];
    const at = tokens.indexOf(document.activeElement);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (at < 0 || !tokens[next]) return;
    event.preventDefault();
    tokens[at].tabIndex = -1;
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

// With the seed of the state the same token would be followed by the same text.
function newSeed() {
  return { seed: Math.floor(Math.random() * Number.MAX_SAFE_INTEGER) };
}

// The tokens of a piece, in order of arrival.
function tokensOf({ text, logprobs, prepend }) {
  if (!logprobs) return text ? [{ text, logprob: null, alternatives: {} }] : [];
  const tokens = logprobs.tokens.map((token, i) => ({
    text: token, logprob: logprobs.token_logprobs[i], alternatives: logprobs.top_logprobs[i] ?? {},
  }));
  return prepend ? tokens.reverse() : tokens;
}
