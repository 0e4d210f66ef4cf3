// The tree of a text's branches: texts that share a beginning, each diverging from the one that it replaced.

import { make } from "./dom.js";
import { textOf, visible } from "./format.js";

const MAX_EXCERPT = 160;

// Shows the tree of the shown text in an element, if it has branches. A text has its tokens, the text that it replaced
// (`from`), and the position of a branch's token (`at`; null without one). `hrefOf` returns the link of a text; `opened`
// is called with the selected one.
export function showBranches(element, texts, shown, { hrefOf, opened }) {
  const rows = tree(rootOf(shown), texts);
  element.hidden = rows.length < 2;
  const hadFocus = element.contains(document.activeElement);
  element.querySelector("ol").replaceChildren(...rows.map(({ text, depth }) => {
    const where = text.at === null ? "First text" : `Token ${text.at + 1}: ${visible(text.tokens[text.at]?.text ?? "")}`;
    const link = make("a", { href: hrefOf(text) }, make("strong", { textContent: where }), ` ${excerpt(text)}`);
    if (text === shown) link.setAttribute("aria-current", "true");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      opened(text);
    });
    return make("li", { className: `depth-${Math.min(depth, 4)}` }, link);
  }));
  if (hadFocus) element.querySelector("[aria-current]").focus();
}

// The positions at which branches diverge from a text.
export function partings(text, texts) {
  return texts.filter(({ from, at }) => from === text && at !== null).map(({ at }) => at);
}

function rootOf(text) {
  return text.at === null ? text : rootOf(text.from);
}

function tree(text, texts, depth = 0) {
  const children = texts.filter(({ from, at }) => from === text && at !== null);
  return [{ text, depth }, ...children.flatMap((child) => tree(child, texts, depth + 1))];
}

// How a text continues after the token where it diverges, on one line.
function excerpt({ tokens, at, generated }) {
  const start = at === null ? 0 : at + 1;
  const labels = tokens.slice(start, start + MAX_EXCERPT).map(({ text }) => text);
  return textOf(generated.isBackward ? labels.reverse() : labels).replace(/\s+/g, " ");
}
