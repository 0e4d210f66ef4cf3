// Texts of tokens and numbers.

import { make, row } from "./dom.js";

// Sets the text of an element to a token's, with a name for screen readers where it is only white space.
export function setTokenText(element, label) {
  const text = shownText(label);
  element.textContent = text;
  if (/[^\p{C}\p{Z}]/u.test(text)) element.removeAttribute("aria-label");
  else element.setAttribute("aria-label", speakable(text));
}

function speakable(text) {
  const names = { " ": "space", "\n": "line feed", "\t": "tab" };
  return [...text].map((character) => names[character] ?? "blank").join(", ") || "empty";
}

// A text with white space, control characters and the like made visible.
export function visible(text) {
  const names = { "\n": "⏎", "\t": "⇥", " ": "␣" };
  const code = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const shown = text.replace(/[\p{Cc}\p{Z}\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/gu, (character) => names[character] ?? code(character));
  return shown || "(empty)";
}

// Whether a token's label stands for bytes of an incomplete character: "bytes:\xe2\x82".
export function isPartial(label) {
  return label.startsWith("bytes:");
}

// A token's label as its text: bytes of an incomplete character have none.
export function shownText(label) {
  return isPartial(label) ? "�" : label;
}

// The text of tokens, from their labels.
export function textOf(labels) {
  if (!labels.some(isPartial)) return labels.join("");
  const encoder = new TextEncoder();
  const bytes = labels.flatMap((label) => (isPartial(label)
    ? [...label.slice(6).matchAll(/\\x([0-9a-f]{2})|([\s\S])/g)].map(([, code, character]) => (code ? parseInt(code, 16) : character.charCodeAt(0)))
    : [...encoder.encode(label)]));
  return new TextDecoder().decode(new Uint8Array(bytes));
}

export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value >= 0.1 ? `${value.toFixed(1)}%` : "<0.1%";
}

// The content of a cell with a probability, as a bar and a number.
export function meter(logprob) {
  const text = percent(logprob);
  return [make("meter", { value: Math.exp(logprob), title: text }), ` ${text}`];
}

// A number with a typographic minus, and none before zero.
export function number(value, digits = 3) {
  const text = value.toFixed(digits);
  return text.startsWith("-") ? (Number(text) === 0 ? text.slice(1) : `−${text.slice(1)}`) : text;
}

// The index of the smallest of many numbers, ignoring nulls; -1 if there is none. As arguments of Math.min, some 100,000
// would overflow the stack.
export function indexOfMin(values) {
  return values.reduce((least, value, index) => (value !== null && !(value >= values[least]) ? index : least), -1);
}

// The least and the greatest value: arguments of Math.min would overflow the stack for long texts.
export function rangeOf(values) {
  return values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
}

// Table rows of tokens, most probable first, with their probability. `tokens` are log probabilities by text; the `chosen`
// one is marked; `more` may add cells to a row.
export function probabilities(tokens, chosen, more = (_text, _logprob) => []) {
  return Object.entries(tokens)
    .sort(([, one], [, other]) => other - one)
    .map(([text, logprob]) => {
      const line = row([visible(text), meter(logprob), ...more(text, logprob)]);
      if (text === chosen) line.className = "chosen";
      return line;
    });
}

// The first characters of a text, without half of a surrogate pair, which a request cannot have.
export function beginning(text, length) {
  return [...text.slice(0, 2 * length)].slice(0, length).join("");
}

// A number of things, in groups of three digits.
export function count(value) {
  return value.toLocaleString("en-US");
}

// A size in bytes, in megabytes.
export function megabytes(bytes) {
  return `${(bytes / 1e6).toLocaleString("en-US", { maximumFractionDigits: bytes < 1e7 ? 1 : 0 })} MB`;
}

// A duration in seconds as minutes and seconds: "1:05".
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// A message of the API as a sentence; a leading field keeps its name.
export function sentence(words) {
  return `${/^\w+[_.]\w/.test(words) ? words[0] : words[0].toUpperCase()}${words.slice(1)}${/[.!?…]$/.test(words) ? "" : "."}`;
}
