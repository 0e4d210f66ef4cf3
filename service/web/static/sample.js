// Samples of models, and the initial text of pages.

import { get, post } from "./api.js";
import { make } from "./dom.js";

const SAMPLE = `ACT II, SCENE I. A garden behind the palace.

[Enter HAMLET, reading, and FALSTAFF]

FALSTAFF.
Good morrow, prince. What reads my lord today?

HAMLET.
Words, words, and more of them than I can count.
[Aside]
The good fat knight has come to sup again.

FALSTAFF.
A cup of sack, sweet lord, and I am gone.

[A trumpet within. Exit FALSTAFF, with the cup]

HAMLET.
So ends the friendship, and so ends the wine.

[He throws the book into the fountain. Exit]
`;
const NUM_TOKENS = 400;

// Returns a scene for a model of plays, for others a text that they write with these labels; `reference` may name a
// version.
export async function openingText(model, reference, labels, signal) {
  if (model.corpus === "shakespeare") return SAMPLE;
  const prompt = Object.keys(labels).length ? "" : await openingPrompt(model);
  const side = model.direction === "backward" ? "suffix" : "prompt";
  const body = { model: reference, [side]: prompt, labels, max_tokens: NUM_TOKENS, temperature: 0.5, seed: 1 };
  return prompt + (await post("v1/completions", body, signal)).choices[0].text;
}

// Returns the first line of a paragraph of the model's sample, or any whole line: with an empty prompt, a model of a
// running text begins within a word. Empty if there is none, and for a backward model.
export async function openingPrompt({ id, version, direction }) {
  if (direction === "backward") return "";
  const { versions } = await get(`v1/models/${encodeURIComponent(id)}`);
  const { sample } = versions.find((each) => each.version === version);
  const line = /\n\n(.+\n)./.exec(sample?.text) ?? /\n(.+\n)./.exec(sample?.text);
  return line?.[1] ?? "";
}

// Returns a sample in reading order, after its labels, with the given part marked.
export function sampleText({ given, text, labels }, direction) {
  const mark = (textContent) => make("span", { className: "given", textContent });
  const badges = Object.entries(labels ?? {}).map(([column, label]) => mark(`${column}: ${label}\n`));
  return [...badges, ...(direction === "backward" ? [text, mark(given)] : [mark(given), text])];
}
