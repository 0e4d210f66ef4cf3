// A text that is being written: the prompt in gray, then a button for each token, colored by surprise.

import { keyAlong, make } from "../dom.js";
import { setTokenText } from "../format.js";
import { surpriseShare } from "./token_view.js";

// The end of the text is kept in view while it is at most this far below the window.
const NEAR_PX = 80;

export class WrittenText {
  tokens = [];
  #output;
  #elements = [];
  #waiting = [];
  #frame = 0;
  #isBackward = false;
  #given = null;

  // `output` gets the text; `opened` is called with the position of a pressed token.
  constructor(output, opened) {
    this.#output = output;
    output.addEventListener("click", (event) => {
      const token = event.target.closest(".token");
      if (token) opened(Number(token.dataset.position));
    });
    output.addEventListener("keydown", (event) => this.#move(event, opened));
  }

  // Begins a text with a prompt, or with a suffix for a backward model, and existing tokens.
  begin(prompt, isBackward, tokens = []) {
    const { hasFocus } = this;
    this.#isBackward = isBackward;
    this.#waiting = [];
    this.tokens = [];
    this.#elements = [];
    this.#given = make("span", { className: "given", textContent: prompt });
    this.#output.replaceChildren(newLine(this.#given));
    this.add(tokens);
    this.flush();
    if (hasFocus) this.#output.focus({ preventScroll: true });
  }

  // Shows tokens with the browser's next frame: a stream may bring a hundred between two.
  add(tokens) {
    this.tokens.push(...tokens);
    this.#waiting.push(...tokens);
    // A tab in the background has no frames.
    if (document.hidden) this.flush();
    else this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.#waiting.length) return;
    const { bottom, left, right } = this.#output.getBoundingClientRect();
    // Of compared texts on a phone, one is beside the window.
    const isVisible = this.#output.checkVisibility({ visibilityProperty: true }) && left >= 0 && right <= innerWidth;
    const isFollowed = !this.#isBackward && isVisible && bottom < innerHeight + NEAR_PX;
    for (const token of this.#waiting.splice(0)) this.#append(token);
    if (isFollowed) this.#output.lastElementChild.scrollIntoView({ block: "end" });
  }

  // Ends the typing.
  show() {
    this.#elements.forEach(({ style }) => { style.visibility = ""; });
  }

  // Removes the colors of `type`, which cover those by surprise.
  unpaint() {
    this.#elements.forEach(({ style }) => { style.backgroundColor = ""; });
  }

  // Types the text token by token over `seconds`; `colors` has one for each token.
  async type(colors, seconds, signal) {
    this.#elements.forEach(({ style }, position) => Object.assign(style, { visibility: "hidden", backgroundColor: colors[position] }));
    const began = performance.now();
    for (let shown = 0; shown < this.#elements.length && !signal.aborted;) {
      const now = await new Promise(requestAnimationFrame);
      const due = seconds ? Math.ceil(((now - began) / (1000 * seconds)) * this.#elements.length) : Infinity;
      while (shown < Math.min(due, this.#elements.length)) this.#elements[shown++].style.visibility = "";
    }
  }

  focus(position) {
    this.#elements[position]?.focus();
  }

  elementOf(position) {
    return this.#elements[position];
  }

  get hasFocus() {
    return this.#output.contains(document.activeElement);
  }

  // A block for each line: in one block, each token would lay out the whole text again, 0.4 s at 5,000 tokens.
  #append(token) {
    const element = this.#element(token);
    const isLineEnd = token.text.endsWith("\n");
    const last = this.#elements.at(-1);
    // A text that continues after its end does so on another line.
    const isBegun = last && this.tokens[this.#elements.length - 1].isEnd;
    if (this.#isBackward) {
      if (isLineEnd || isBegun) this.#output.prepend(newLine());
      this.#output.firstElementChild.prepend(element);
    } else {
      if (last ? last.dataset.ends || isBegun : this.#given.textContent.endsWith("\n")) this.#output.append(newLine());
      this.#output.lastElementChild.append(element);
    }
    if (isLineEnd) element.dataset.ends = "true";
    this.#elements.push(element);
  }

  #element(token) {
    // Not a <button>: its inline-block box would allow a line break inside a word, and swallow the text's own line breaks.
    const className = token.branched ? "token branched" : "token";
    const element = make("span", { role: "button", className, tabIndex: this.#elements.length ? -1 : 0 });
    element.dataset.position = this.#elements.length;
    setTokenText(element, token.text);
    if (typeof token.logprob === "number") element.style.setProperty("--surprise", surpriseShare(token.logprob).toFixed(2));
    return element;
  }

  // Arrow keys move the focus, Enter and Space open a token; Tab leaves the text.
  #move(event, opened) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const index = this.#elements.indexOf(document.activeElement);
    if (index < 0) return;
    const [last, step] = [this.#elements.length - 1, this.#isBackward ? -1 : 1];
    const next = { ArrowLeft: index - step, ArrowRight: index + step, Home: this.#isBackward ? last : 0, End: this.#isBackward ? 0 : last }[keyAlong(event.key, this.#output)];
    if (event.key === "Enter" || event.key === " ") opened(index);
    else if (next === undefined || !this.#elements[next]) return;
    else {
      this.#elements[index].tabIndex = -1;
      this.#elements[next].tabIndex = 0;
      this.#elements[next].focus();
    }
    event.preventDefault();
  }
}

function newLine(...content) {
  return make("div", { className: "line" }, ...content);
}
