// A text whose tokens are colored and can be selected.

import { palette } from "../colors.js";
import { indexByKey, keyAlong, make } from "../dom.js";
import { setTokenText } from "../format.js";

export class TokenView {
  #list;
  #tokens = [];
  #chosen = 0;
  // Of a selection by keys.
  #end = 0;
  #stretch = [];

  // `list` gets the tokens; `on` is called with the position of the chosen one, `selected` with the first and last of
  // several that are selected like text, or by Shift and the arrow keys.
  constructor(list, on, selected = (_first, _last) => {}) {
    this.#list = list;
    document.addEventListener("selectionchange", () => {
      const selection = document.getSelection();
      if (selection.isCollapsed || !list.contains(selection.anchorNode) || !list.contains(selection.focusNode)) return;
      const [one, other] = [selection.anchorNode, selection.focusNode].map((node) => Number(/** @type {HTMLElement} */ (node.parentElement.closest("[data-position]"))?.dataset.position));
      if (one >= 0 && other >= 0) selected(Math.min(one, other), Math.max(one, other));
    });
    list.addEventListener("click", (event) => {
      const position = event.target.closest("[data-position]")?.dataset.position;
      if (position) on(Number(position));
    });
    list.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const next = indexByKey(keyAlong(event.key, list), event.shiftKey ? this.#end : this.#chosen, this.#tokens.length);
      if (next === undefined) return;
      event.preventDefault();
      if (event.shiftKey) {
        this.#end = next;
        selected(Math.min(this.#chosen, next), Math.max(this.#chosen, next));
      } else {
        on(next);
      }
    });
  }

  show(tokens) {
    this.#tokens = tokens.map((text, position) => {
      const token = make("span", { id: `token-${position}`, role: "option", ariaSelected: "false" });
      token.dataset.position = position;
      setTokenText(token, text);
      if (text.endsWith("\n")) token.dataset.ends = "true";
      return token;
    });
    // One by one: with thousands of arguments the stack would overflow.
    const all = document.createDocumentFragment();
    this.#tokens.forEach((token) => all.append(token));
    this.#list.replaceChildren(all);
    this.choose(0);
  }

  // Gives each token a color and a text, its own or another.
  paint(texts, colors) {
    this.#tokens.forEach((token, position) => {
      if (token.textContent !== texts[position]) setTokenText(token, texts[position]);
      token.style.backgroundColor = colors[position];
    });
  }

  // Marks a stretch of tokens, by the positions of the first and last; null: none.
  mark(stretch) {
    this.#stretch.forEach((token) => token.classList.remove("stretch"));
    this.#stretch = stretch ? this.#tokens.slice(stretch[0], stretch[1] + 1) : [];
    this.#stretch.forEach((token) => token.classList.add("stretch"));
  }

  choose(position) {
    this.#tokens[this.#chosen]?.setAttribute("aria-selected", "false");
    this.#chosen = this.#end = position;
    const token = this.#tokens[position];
    if (!token) return;
    token.setAttribute("aria-selected", "true");
    this.#list.setAttribute("aria-activedescendant", token.id);
    const { top, bottom } = token.getBoundingClientRect();
    const box = this.#list.getBoundingClientRect();
    if (top < box.top || bottom > box.bottom) this.#list.scrollTop += top - box.top - box.height / 2;
  }
}

// The share of the strongest color for a token, by its surprise −log p: all of it at a probability of at most 0.1%.
const MOST_SURPRISE = Math.log(1000);
export const SURPRISE_ENDS = ["expected", "surprise: 0.1% or less"];

export function surpriseShare(logprob) {
  return Math.min(1, -logprob / MOST_SURPRISE);
}

// Colors of tokens by surprise.
export function surprise(logprobs) {
  return logprobs.map((logprob) => (logprob === null ? "transparent" : palette().css(surpriseShare(logprob), 1)));
}

// Colors of tokens by the value of one unit, the strongest for the largest; tokens without values have none.
export function activation({ rowOf, tokens }, matrix, column) {
  const most = matrix.strong(column);
  return tokens.map((_, position) => (rowOf[position] < 0 ? "transparent" : palette().css(matrix.at(rowOf[position], column), most)));
}
