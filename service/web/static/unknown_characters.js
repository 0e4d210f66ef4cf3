// Characters of the prompt outside a character model's vocabulary, underlined in it and counted below.

import { post } from "./api.js";
import { findAll, make } from "./dom.js";
import { count, visible } from "./format.js";

const [prompt, marks, note] = findAll(["prompt", "prompt-marks", "prompt-unknown"]);
const PAUSE_MS = 150;
const MAX_NAMED = 5;
// By model: whether it knows a character. Each is requested once.
const known = new Map();
let timer = 0;

prompt.addEventListener("scroll", () => { marks.scrollTop = prompt.scrollTop; });

// Marks those of the prompt after a pause; `reference` may name a version of the model.
export function markUnknown(model, reference) {
  clearTimeout(timer);
  const mine = setTimeout(async () => {
    const characters = [...prompt.value];
    const knows = model?.unit === "character" ? await ask(reference, new Set(characters)) : () => true;
    // A response may arrive after a later prompt's.
    if (mine === timer) show(characters, knows, model?.id);
  }, PAUSE_MS);
  timer = mine;
}

async function ask(reference, characters) {
  if (!known.has(reference)) known.set(reference, new Map());
  const answers = known.get(reference);
  const asked = [...characters].filter((character) => !answers.has(character));
  if (asked.length) {
    // Without a response nothing is marked; the text's own request will report the problem.
    const { token_strs: tokens } = await post("tokenize", { model: reference, prompt: asked.join(""), return_token_strs: true }).catch(() => ({ token_strs: [] }));
    // A tokenizer that drops characters returns fewer tokens; the unknown token's name is longer than a character.
    if (tokens.length === asked.length) asked.forEach((character, i) => answers.set(character, [...tokens[i]].length === 1));
  }
  return (character) => answers.get(character) ?? true;
}

function show(characters, knows, name) {
  marks.replaceChildren();
  // An element for each run of them, and a text between: not one for each character of a long prompt.
  for (let from = 0, to = 0; from < characters.length; from = to) {
    const isKnown = knows(characters[from]);
    while (to < characters.length && knows(characters[to]) === isKnown) to += 1;
    const run = characters.slice(from, to).join("");
    marks.append(isKnown ? run : make("u", { textContent: run }));
  }
  marks.append("\n");
  marks.scrollTop = prompt.scrollTop;
  const unknown = characters.filter((character) => !knows(character));
  const named = [...new Set(unknown)].map(visible);
  note.hidden = !unknown.length;
  note.textContent = unknown.length === 0 ? "" : `${count(unknown.length)} ${unknown.length > 1 ? "characters are" : "character is"} not in the vocabulary of ${name}: ${named.slice(0, MAX_NAMED).join(" ")}${named.length > MAX_NAMED ? " …" : ""}`;
}
