// The dialog of a generated token: its alternatives, and branching with one of them.

import { button, find } from "./dom.js";
import { isPartial, percent, probabilities, visible } from "./format.js";

const dialog = find("token");

// Shows a token; `branch` is called with the token to generate after: another one, or the same with a new seed.
export function showToken(token, branch) {
  const title = dialog.querySelector("h2");
  title.textContent = `“${visible(token.text)}”`;
  dialog.querySelector("p").textContent = token.logprob === null || token.logprob === undefined
    ? "Chosen by you, not sampled."
    : `Probability ${percent(token.logprob)}.`;
  const rows = probabilities(token.alternatives ?? {}, token.text, (text, logprob) => {
    // Bytes of an incomplete character cannot be sent as text.
    if (isPartial(text)) return [""];
    const same = text === token.text;
    const action = same ? "Regenerate from here" : "Branch";
    return [[button(action, `${action}: ${visible(text)}`, () => {
      dialog.close();
      branch({ text, logprob, alternatives: token.alternatives, same });
    })]];
  });
  dialog.querySelector("tbody").replaceChildren(...rows);
  dialog.querySelector("table").hidden = rows.length === 0;
  dialog.showModal();
}
