// Features of a text, and the correlation of units with them.

import { isPartial } from "./format.js";
import { yieldToBrowser } from "./inspection.js";

// Each has a name, a help text, and a function that returns its value after each character of a text; those of
// discoveries also have a title. The exporter has the same ones (export/graphs/unit_search.py).
export const FEATURES = {
  brackets: { name: "Inside brackets", title: "Inside or outside brackets", help: "Number of open ( [ {", walk: brackets },
  quotes: { name: "Inside quotes", title: "Inside or outside quotation marks", help: "1 between quotation marks", walk: quotes },
  line: { name: "Position in the line", title: "How far into the line", help: "Characters since the line began", walk: () => counter((character) => character === "\n") },
  word: { name: "Position in the word", title: "How far into the word", help: "Letters since the word began", walk: () => counter((character) => !/[\p{L}\p{M}\p{N}_]/u.test(character)) },
  upper: { name: "In capitals", title: "Words in capitals", help: "1 within a word in capitals, such as a speaker's name", walk: upper },
  capital: { name: "After a capital", help: "1 directly after a capital letter", walk: () => (character) => Number(/\p{Lu}/u.test(character)) },
  digit: { name: "In a number", help: "1 after a digit", walk: () => (character) => Number(/\p{Decimal_Number}/u.test(character)) },
  space: { name: "Between words", help: "1 after white space", walk: () => (character) => Number(/\s/u.test(character)) },
};
// Features of discoveries, which need a memory longer than the last token, in groups of a kind.
export const KINDS_OF_FEATURES = [["brackets", "quotes"], ["line", "word"], ["upper"]];
// Less, in either half, is chance or useless. The exporter has the same minimum.
export const MIN_CORRELATION = 0.35;
// In a shorter text, some of a thousand unrelated units correlate in both halves.
export const MIN_TOKENS = 100;

export const PROBABILITY = { name: "Token probability", help: "The probability of the token" };
export const REGEXP = { name: "Regular expression", help: "1 inside a match of a regular expression" };

// Returns the value after each token: Float32Array (tokens).
export function featureOf(name, { tokens, logprobs }, pattern = "") {
  if (name === "sure") return Float32Array.from(logprobs, (logprob) => (logprob === null ? 0 : Math.exp(logprob)));
  const texts = tokens.map((token) => (isPartial(token) ? "" : token));
  const text = texts.join("");
  const along = name === "own" ? inside(text, new RegExp(pattern, "gu")) : walked(text, FEATURES[name].walk());
  let end = 0;
  return Float32Array.from(texts, (each) => along[(end += each.length) - 1] ?? 0);
}

// Pearson's correlation of each column of a matrix with a feature over the rows from `from` up to `to`: Float32Array
// (columns), 0 where either is constant. `target` has a value for each row.
export function correlations(matrix, target, from, to) {
  const { values, columns } = matrix;
  const [sums, squares, products] = [0, 1, 2].map(() => new Float64Array(columns));
  let sum = 0;
  let square = 0;
  for (let row = from; row < to; row++) {
    const y = target[row];
    sum += y;
    square += y * y;
    for (let column = 0, i = row * columns; column < columns; column++, i++) {
      const x = values[i];
      sums[column] += x;
      squares[column] += x * x;
      products[column] += x * y;
    }
  }
  const count = to - from;
  const spread = count * square - sum * sum;
  return Float32Array.from(sums, (total, column) => {
    const both = spread * (count * squares[column] - total * total);
    return both > 1e-9 ? (count * products[column] - total * sum) / Math.sqrt(both) : 0;
  });
}

// The units that correlate most with a feature in the first half of a text, ordered by the correlation in the second,
// without which the best of a thousand unrelated units would look like a result. `target` has a value for each row.
export async function search(inspection, target, count = 12) {
  const half = Math.ceil(target.length / 2);
  const found = [];
  for (const [layer, { units, matrices }] of inspection.layers) {
    for (const kind of ["hidden", "cell", "top"]) {
      const matrix = matrices.get(kind);
      if (!matrix) continue;
      const [first, second] = [correlations(matrix, target, 0, half), correlations(matrix, target, half, target.length)];
      units.forEach((unit, column) => found.push({ layer, kind, unit, first: first[column], second: second[column] }));
      await yieldToBrowser();
    }
  }
  const ranked = found.sort((one, other) => Math.abs(other.first) - Math.abs(one.first)).slice(0, count);
  return ranked.sort((one, other) => held(other) - held(one));
}

// The size of a correlation in the half where it is weaker; negative if the signs differ.
export function held({ first, second }) {
  return Math.sign(first * second) * Math.min(Math.abs(first), Math.abs(second));
}

// The feature at each row of a text's matrices: Float32Array (rows); null where it is constant.
export function targetOf(name, inspection, pattern) {
  const values = featureOf(name, inspection, pattern);
  const target = Float32Array.from(inspection.positions, (position) => values[position]);
  return target.some((value) => value !== target[0]) ? target : null;
}

// Whether a feature has several values in each half of the text, so that both can be correlated with it.
export function variesInHalves(target) {
  const half = Math.ceil(target.length / 2);
  return [target.subarray(0, half), target.subarray(half)].every((part) => part.some((value) => value !== part[0]));
}

// A unit that follows a feature of each kind, with the feature's name, if the correlation holds in the second half. As in
// the exporter, only the first half chooses.
export async function discover(inspection) {
  const discoveries = [];
  if (inspection.positions.length < MIN_TOKENS) return discoveries;
  for (const names of KINDS_OF_FEATURES) {
    const found = [];
    for (const feature of names) {
      const target = targetOf(feature, inspection);
      if (target && variesInHalves(target)) found.push({ feature, ...(await search(inspection, target, 1))[0] });
    }
    const holding = found.filter((each) => held(each) >= MIN_CORRELATION);
    const [best] = holding.sort((one, other) => Math.abs(other.first) - Math.abs(one.first));
    if (best) discoveries.push(best);
  }
  return discoveries;
}

function walked(text, step) {
  const along = new Float32Array(text.length);
  let offset = 0;
  for (const character of text) {
    along.fill(step(character), offset, offset + character.length);
    offset += character.length;
  }
  return along;
}

function inside(text, pattern) {
  const along = new Float32Array(text.length);
  for (const match of text.matchAll(pattern)) along.fill(1, match.index, match.index + match[0].length);
  return along;
}

function counter(isStart) {
  let count = 0;
  return (character) => (count = isStart(character) ? 0 : count + 1);
}

function quotes() {
  let open = false;
  return (character) => {
    if (character === '"') open = !open;
    else if ("“«„".includes(character)) open = true;
    else if ("”»".includes(character)) open = false;
    return Number(open);
  };
}

function upper() {
  let before = false;
  return (character) => {
    const is = /\p{Lu}/u.test(character);
    const value = Number(is && before);
    before = is;
    return value;
  };
}

function brackets() {
  let depth = 0;
  return (character) => {
    if ("([{".includes(character)) depth += 1;
    else if (")]}".includes(character)) depth = Math.max(0, depth - 1);
    return depth;
  };
}
