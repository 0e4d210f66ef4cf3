// The popover of a generated token: its alternatives, and branching with one of them.

import { button, find, keyAlong } from "../dom.js";
import { isPartial, percent, probabilities, visible } from "../format.js";

const popover = find("token");
const GAP_PX = 6;
let on = {};
let opened = null;

popover.addEventListener("toggle", ({ newState }) => {
  if (newState === "closed") mark(null);
});
// The arrow keys walk along the text, and up and down through the alternatives.
popover.addEventListener("keydown", (event) => {
  const buttons = [...popover.querySelectorAll("button")];
  const at = buttons.indexOf(document.activeElement);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
  if (next !== undefined) buttons.at(next % buttons.length)?.focus();
  else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) return;
  else if (event.key === "ArrowLeft" || event.key === "ArrowRight") on.walk(keyAlong(event.key, opened) === "ArrowRight" ? 1 : -1);
  // Ctrl+Enter, which generates a text elsewhere, does not press a button here.
  else if (event.key !== "Enter") return;
  event.preventDefault();
});

// Shows a token beside its element; `branch` is called with the token to continue after: another one, or the same with a
// new seed; `walk` with 1 or −1 to show the next or previous token.
export function showToken(token, element, { branch, walk }) {
  on = { walk };
  const hasFocus = popover.contains(document.activeElement) || element === document.activeElement;
  popover.hidePopover();
  find("token-title").textContent = `“${visible(token.text)}”`;
  find("token-text").textContent = token.logprob === null || token.logprob === undefined
    ? "Chosen by you, not sampled."
    : `Probability ${percent(token.logprob)}.`;
  const rows = probabilities(token.alternatives ?? {}, token.text, (text, logprob) => {
    // Bytes of an incomplete character cannot be sent as text.
    if (isPartial(text)) return [""];
    const same = text === token.text;
    const action = same ? "Regenerate from here" : "Branch";
    return [[button(action, `${action}: ${visible(text)}`, () => {
      popover.hidePopover();
      branch({ text, logprob, alternatives: token.alternatives, same });
    })]];
  });
  // The whole row presses its button.
  rows.forEach((row) => row.addEventListener("click", ({ target }) => /** @type {Element} */ (target).closest("button") ?? row.querySelector("button")?.click()));
  popover.querySelector("tbody").replaceChildren(...rows);
  popover.querySelector("table").hidden = rows.length === 0;
  if (hasFocus) element.focus();
  popover.showPopover();
  mark(element);
  place(element.getBoundingClientRect());
  if (hasFocus) popover.querySelector("button")?.focus();
}

function mark(element) {
  opened?.classList.remove("opened");
  opened = element;
  opened?.classList.add("opened");
}

// Below the token, or above if there is no room; style sheets place it at the bottom of a phone.
function place({ left, top, bottom }) {
  const { offsetWidth: width, offsetHeight: height } = popover;
  const below = bottom + GAP_PX + height < innerHeight;
  popover.style.left = `${Math.max(GAP_PX, Math.min(left, innerWidth - width - GAP_PX))}px`;
  popover.style.top = `${Math.max(GAP_PX, below ? bottom + GAP_PX : top - GAP_PX - height)}px`;
}
