// What a unit may follow in a text, and how closely it does.

import { yieldToBrowser } from "./inspection.js";

// Of each: a name, what it says, and its value behind each character, made by a walk over the text.
export const FEATURES = {
  line: { name: "Position in the line", says: "characters since the line began", walk: () => counter((character) => character === "\n") },
  word: { name: "Position in the word", says: "letters since the word began", walk: () => counter((character) => !/[\p{L}\p{M}\p{N}_]/u.test(character)) },
  quotes: { name: "Inside quotes", says: "1 between quotation marks", walk: quotes },
  brackets: { name: "Inside brackets", says: "how many ( [ { are open", walk: brackets },
  capital: { name: "After a capital", says: "1 just behind a capital letter", walk: () => (character) => Number(/\p{Lu}/u.test(character)) },
  digit: { name: "In a number", says: "1 behind a digit", walk: () => (character) => Number(/\p{Decimal_Number}/u.test(character)) },
  space: { name: "Between words", says: "1 behind a blank or a line's end", walk: () => (character) => Number(/\s/u.test(character)) },
};

export const SURE = { name: "How sure the model was", says: "the probability of the token" };
export const OWN = { name: "A pattern of your own", says: "1 inside what a regular expression finds" };

// Returns the value behind each token: Float32Array (tokens).
export function featureOf(name, { tokens, logprobs }, pattern = "") {
  if (name === "sure") return Float32Array.from(logprobs, (logprob) => (logprob === null ? 0 : Math.exp(logprob)));
  const text = tokens.join("");
  const along = name === "own" ? inside(text, new RegExp(pattern, "gu")) : walked(text, FEATURES[name].walk());
  let end = 0;
  return Float32Array.from(tokens, (token) => along[(end += token.length) - 1] ?? 0);
}

// How closely each column of a matrix follows a feature: Pearson's correlation over `rows` from `from` up to `to`,
// Float32Array (columns), 0 where one of both never changes. `wanted` has a value for each row.
export function correlations(matrix, wanted, from, to) {
  const { values, columns } = matrix;
  const [sums, squares, products] = [0, 1, 2].map(() => new Float64Array(columns));
  let sum = 0;
  let square = 0;
  for (let row = from; row < to; row++) {
    const y = wanted[row];
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

// The units that follow a feature most closely in the first half of a text, with what the other half says of them.
// Without the second one, the best of a thousand units that mean nothing would look like a find.
export async function search(inspection, wanted, count = 12) {
  const half = Math.ceil(wanted.length / 2);
  const found = [];
  for (const [layer, { units, matrices }] of inspection.layers) {
    for (const kind of ["hidden", "cell", "top"]) {
      const matrix = matrices.get(kind);
      if (!matrix) continue;
      const [first, second] = [correlations(matrix, wanted, 0, half), correlations(matrix, wanted, half, wanted.length)];
      units.forEach((unit, column) => found.push({ layer, kind, unit, first: first[column], second: second[column] }));
      await yieldToBrowser();
    }
  }
  return found.sort((one, other) => Math.abs(other.first) - Math.abs(one.first)).slice(0, count);
}

function walked(text, step) {
  const along = new Float32Array(text.length);
  let place = 0;
  for (const character of text) {
    along.fill(step(character), place, place + character.length);
    place += character.length;
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

function brackets() {
  let depth = 0;
  return (character) => {
    if ("([{".includes(character)) depth += 1;
    else if (")]}".includes(character)) depth = Math.max(0, depth - 1);
    return depth;
  };
}
