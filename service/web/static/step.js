// One step of a cell in numbers: a unit's values before a token, and what Keras's LSTM or GRU makes of them.

import { number } from "./format.js";

/**
 * The values of a unit after a token by kind, and `oldHidden` and `oldCell` before it: zero before the first token that is
 * read, unless the model has read labels before. Returns null if the response does not have the preceding values.
 * @returns {Record<string, number> | null}
 */
export function stepOf(found, layer, at, column, isBackward) {
  const before = isBackward ? at + 1 : at - 1;
  const isFirst = found.positions[at] === (isBackward ? found.tokens.length - 1 : 0);
  if (isFirst && found.logprobs[found.positions[at]] !== null) return null; // predicted from what was read before
  const isKnown = isFirst || Math.abs((found.positions[before] ?? Infinity) - found.positions[at]) === 1;
  if (!isKnown) return null;
  const old = (kind) => (isFirst ? 0 : found.matrix(layer, kind)?.at(before, column));
  const values = found.kinds(layer).map((kind) => [kind, found.matrix(layer, kind).at(at, column)]);
  return { ...Object.fromEntries(values), oldHidden: old("hidden"), oldCell: old("cell") };
}

/**
 * The formula of the new state in numbers; "" without gates.
 * @param {Record<string, number>} step
 */
export function formulaOf({ forget, input, candidate, output, update, cell, hidden, oldCell, oldHidden }) {
  if (forget !== undefined) {
    return `c′ = f × c + i × g: ${shown(forget)} × ${shown(oldCell)} + ${shown(input)} × ${shown(candidate)} = ${number(cell)}\n`
      + `h′ = o × tanh c′: ${shown(output)} × ${shown(Math.tanh(cell))} = ${number(hidden)}`;
  }
  if (update === undefined) return "";
  return `h′ = z × h + (1 − z) × g: ${shown(update)} × ${shown(oldHidden)} + ${shown(1 - update)} × ${shown(candidate)} = ${number(hidden)}`;
}

function shown(value) {
  return value < 0 ? `(${number(value)})` : number(value);
}
