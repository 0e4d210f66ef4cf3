// The text that pages look into while there is none yet.

import { post } from "./api.js";

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

// Returns a scene for a model of plays, and for another one a text that it writes, with these labels; `reference` may
// name a version.
export async function openingText({ corpus, direction }, reference, labels, signal) {
  if (corpus === "shakespeare") return SAMPLE;
  const prompt = direction === "backward" ? { suffix: "" } : { prompt: "" };
  const body = { model: reference, ...prompt, labels, max_tokens: NUM_TOKENS, temperature: 0.5, seed: 1 };
  return (await post("v1/completions", body, signal)).choices[0].text;
}
