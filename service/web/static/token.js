// What the model might have written in a token's place, and a way to go on from there.

import { button, percent, probabilities, visible } from "./format.js";

const dialog = document.getElementById("token");

// Shows one; `branch` is called with the token that is to stand in its place.
export function showToken(token, branch) {
  const title = dialog.querySelector("h2");
  title.textContent = `“${visible(token.text)}”`;
  dialog.querySelector("p").textContent = token.logprob === null || token.logprob === undefined
    ? "It was put here, and not drawn."
    : `The model gave it ${percent(token.logprob)}.`;
  const rows = probabilities(token.alternatives ?? {}, token.text, (text, logprob) => {
    // Bytes that are no whole character cannot be given as text.
    if (text.startsWith("bytes:")) return [""];
    const same = text === token.text;
    const action = same ? "Go on from here" : "Branch";
    return [[button(action, `${action} with ${visible(text)}`, () => {
      dialog.close();
      branch({ text, logprob, alternatives: token.alternatives, same });
    })]];
  });
  dialog.querySelector("tbody").replaceChildren(...rows);
  dialog.querySelector("table").hidden = rows.length === 0;
  dialog.showModal();
}
