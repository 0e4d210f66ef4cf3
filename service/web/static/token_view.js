// A text whose tokens are painted by what went on at them, and can be chosen one by one.

import { palette } from "./colors.js";
import { speakable } from "./format.js";

export class TokenView {
  #list;
  #on;
  #tokens = [];
  #chosen = 0;

  // `list` gets the tokens; `on` is called with the place of the one that is chosen.
  constructor(list, on) {
    this.#list = list;
    this.#on = on;
    list.addEventListener("click", (event) => {
      const place = event.target.closest("[data-place]")?.dataset.place;
      if (place) on(Number(place));
    });
    list.addEventListener("keydown", (event) => this.#move(event));
  }

  show(tokens) {
    this.#tokens = tokens.map((text, place) => {
      const token = document.createElement("span");
      token.setAttribute("role", "option");
      token.setAttribute("aria-selected", "false");
      token.id = `token-${place}`;
      token.dataset.place = place;
      return this.#labelled(token, text);
    });
    // One by one: as many arguments as a long text has tokens would overflow the stack.
    const all = document.createDocumentFragment();
    this.#tokens.forEach((token) => all.append(token));
    this.#list.replaceChildren(all);
    this.choose(0);
  }

  // Gives each token a text and a colour: `texts` are those of the tokens, or what is to stand in their place.
  paint(texts, colors) {
    this.#tokens.forEach((token, place) => {
      if (token.textContent !== texts[place]) this.#labelled(token, texts[place]);
      token.style.backgroundColor = colors[place];
    });
  }

  choose(place) {
    this.#tokens[this.#chosen]?.setAttribute("aria-selected", "false");
    this.#chosen = place;
    const token = this.#tokens[place];
    if (!token) return;
    token.setAttribute("aria-selected", "true");
    this.#list.setAttribute("aria-activedescendant", token.id);
    const { top, bottom } = token.getBoundingClientRect();
    const box = this.#list.getBoundingClientRect();
    if (top < box.top || bottom > box.bottom) this.#list.scrollTop += top - box.top - box.height / 2;
  }

  #labelled(token, text) {
    token.textContent = text;
    if (text.trim()) token.removeAttribute("aria-label");
    else token.setAttribute("aria-label", speakable(text));
    return token;
  }

  #move(event) {
    const last = this.#tokens.length - 1;
    const next = { ArrowLeft: this.#chosen - 1, ArrowRight: this.#chosen + 1, Home: 0, End: last }[event.key];
    if (next === undefined || next < 0 || next > last) return;
    event.preventDefault();
    this.#on(next);
  }
}

// Colours of tokens: the less sure the model was, the warmer.
export function tokenProbabilities(logprobs) {
  return logprobs.map((logprob) => (logprob === null ? "transparent" : palette().css(1 - Math.exp(logprob), 1.6)));
}

// Colours of tokens by the value of one unit, the strongest for its largest; tokens that were left out have none.
export function activation({ rowOf, tokens }, matrix, column) {
  const most = matrix.most(column);
  return tokens.map((_, place) => (rowOf[place] < 0 ? "transparent" : palette().css(matrix.at(rowOf[place], column), most)));
}
