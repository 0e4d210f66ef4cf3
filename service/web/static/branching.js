// The beginning of a branch: the tokens before a position, and a token there.

import { Failure, post } from "./api.js";
import { visible } from "./format.js";

// A bias that makes a token the most probable one, if the pattern allows it.
const LARGE = 100;

// Returns the body of a branch's request, without sampling parameters, and whether the token completes the match, so that
// nothing follows.
//
// `origin` is the request that generated the tokens with these `texts`, which `token` follows; `fields` are those of the
// next request. `model` and `promptField` are those of the text.
export async function branchBody(origin, texts, token, fields, { model, promptField }, signal) {
  const pattern = constraint(origin.fields);
  const seed = { seed: token.seed ?? newSeed() };
  const replay = (replayed) => replayTokens(origin, replayed, pattern && promptField, signal);
  if (!pattern || pattern !== constraint(fields)) {
    if (!token.same) await requireText(token.text, model, signal);
    return { body: { state: (await replay(texts)).state, [promptField]: token.text, ...seed }, isComplete: false };
  }
  // A prompt after the resume token would begin another match: the token is generated instead.
  const choice = token.same
    ? await replay([...texts, token.text])
    : await generateToken(token.text, { ...origin.fields, state: (await replay(texts)).state }, model, signal);
  return { body: { state: choice.state, ...seed }, isComplete: choice.finish_reason === "stop" };
}

// Refuses a special token, such as the EOS token: its name, as a prompt, would be read as text.
async function requireText(text, model, signal) {
  const { tokens } = await post("tokenize", { model, prompt: text }, signal);
  if (!(await post("detokenize", { model, tokens }, signal)).prompt) throw new Failure(`Cannot branch here: ${text} is a token without text.`);
}

// Returns the resume token after the tokens with these `texts`, for a text stopped before its own arrived.
export async function resumeToken(origin, texts, { promptField }, signal) {
  return (await replayTokens(origin, texts, constraint(origin.fields) && promptField, signal)).state;
}

// Generates tokens again, for the resume token after them. With a pattern, checks that they are the same: the last ones
// before Max tokens were restricted to those that complete the match.
async function replayTokens({ body, seed, fields }, texts, checked, signal) {
  const [choice] = (await post("v1/completions", {
    ...fields, ...body, seed, max_tokens: texts.length, stop: undefined, logprobs: checked ? 0 : undefined, return_state: true,
    complete_within_max_tokens: false,
  }, signal)).choices;
  const tokens = [...(choice.logprobs?.tokens ?? [])];
  if (checked === "suffix") tokens.reverse();
  if (checked && tokens.join("\0") !== texts.join("\0")) {
    throw new Failure("Cannot branch here: Max tokens constrained the preceding tokens. Raise it and generate the text again.");
  }
  return choice;
}

async function generateToken(text, fields, model, signal) {
  const { tokens: [id] } = await post("tokenize", { model, prompt: text }, signal);
  const [choice] = (await post("v1/completions", {
    ...fields, seed: undefined, labels: undefined, max_tokens: 1, temperature: 0, logit_bias: { [id]: LARGE }, stop: undefined, logprobs: 0,
    return_state: true, complete_within_max_tokens: false,
  }, signal)).choices;
  if (choice.logprobs.tokens[0] !== text) throw new Failure(`The pattern does not allow ${visible(text)} here.`);
  return choice;
}

// The constraint of a request, as a comparable string; "" without one.
function constraint({ structured_outputs, min_length }) {
  return structured_outputs || min_length ? JSON.stringify({ structured_outputs, min_length }) : "";
}

// With the resume token's seed, the same token, and sometimes another one, would get the same continuation.
function newSeed() {
  return Math.floor(Math.random() * Number.MAX_SAFE_INTEGER);
}
