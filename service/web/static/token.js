// What the model might have written in a token's place, and a way to go on from there.

const dialog = document.getElementById("token");

// Shows one; `branch` is called with the token that is to stand in its place.
export function showToken(token, branch) {
  const title = dialog.querySelector("h2");
  title.textContent = `“${visible(token.text)}”`;
  dialog.querySelector("p").textContent = token.logprob === null || token.logprob === undefined
    ? "It was put here, and not drawn."
    : `The model gave it ${percent(token.logprob)}.`;
  const rows = Object.entries(token.alternatives ?? {})
    .sort(([, one], [, other]) => other - one)
    .map(([text, logprob]) => row(text, logprob, text === token.text, () => {
      dialog.close();
      branch({ text, logprob, alternatives: token.alternatives, same: text === token.text });
    }));
  dialog.querySelector("tbody").replaceChildren(...rows);
  dialog.querySelector("table").hidden = rows.length === 0;
  dialog.showModal();
}

function row(text, logprob, chosen, branch) {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.textContent = visible(text);
  const probability = document.createElement("td");
  const bar = document.createElement("meter");
  bar.value = Math.exp(logprob);
  bar.title = percent(logprob);
  probability.append(bar, ` ${percent(logprob)}`);
  const action = document.createElement("td");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = chosen ? "Go on from here" : "Branch";
  button.setAttribute("aria-label", `${button.textContent} with ${visible(text)}`);
  button.addEventListener("click", branch);
  // Bytes that are no whole character cannot be given as text.
  if (!text.startsWith("bytes:")) action.append(button);
  line.append(name, probability, action);
  if (chosen) line.className = "chosen";
  return line;
}

// White space and what cannot be seen, written out.
export function visible(text) {
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";
}

function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value >= 0.1 ? `${value.toFixed(1)}%` : "less than 0.1%";
}
