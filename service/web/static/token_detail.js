// What went on at one token: what was expected there, and what one unit held and its gates did, by the formula.

import { KINDS } from "./inspection.js";
import { number, percent, probabilities, row, visible } from "./format.js";

const find = (id) => document.getElementById(id);
const [title, told, alternatives, gatesTitle, values, formula] =
  ["place-title", "place-text", "alternatives", "gates-title", "values", "formula"].map(find);

// Shows it. `column` is where the matrices have the unit; `isBackward`: whether the text was read from its other end.
export function showTokenDetail(found, { place, layer, unit }, column, isBackward) {
  const logprob = found.logprobs[place];
  title.textContent = `At token ${place}, “${visible(found.tokens[place])}”`;
  told.textContent = logprob === null
    ? "There was nothing to expect this token from"
    : `What the model expected here; it gave this token ${percent(logprob)}`;
  alternatives.parentElement.tHead.hidden = logprob === null;
  alternatives.replaceChildren(...probabilities(found.alternatives[place] ?? {}, found.tokens[place]));
  const at = found.rowOf[place];
  const kinds = at < 0 ? [] : found.kinds(layer);
  gatesTitle.textContent = at < 0 ? "The values of this token were left out" : `Layer ${layer}, unit ${unit}, as this token was read`;
  values.replaceChildren(...kinds.map((kind) => {
    const matrix = found.matrix(layer, kind);
    const line = row([KINDS[kind].name, number(matrix.at(at, column)), number(matrix.mean(at))]);
    line.title = KINDS[kind].says;
    return line;
  }));
  formula.textContent = at < 0 ? "" : calculation(found, layer, at, column, isBackward);
}

// The formula of the state with its numbers, as far as the state before is known: Keras's LSTM, and its GRU.
function calculation(found, layer, at, column, isBackward) {
  const value = (kind, where = at) => found.matrix(layer, kind)?.at(where, column);
  const before = isBackward ? at + 1 : at - 1;
  const isFirst = found.positions[at] === (isBackward ? found.tokens.length - 1 : 0);
  const isKnown = isFirst || Math.abs((found.positions[before] ?? Infinity) - found.positions[at]) === 1;
  if (!found.hasGates(layer) || !isKnown) return "";
  const old = (kind) => shown(isFirst ? 0 : value(kind, before));
  if (value("forget") !== undefined) {
    return `c′ = f × c + i × g: ${shown(value("forget"))} × ${old("cell")} + ${shown(value("input"))} × ${shown(value("candidate"))} = ${shown(value("cell"))}\n`
      + `h′ = o × tanh c′: ${shown(value("output"))} × ${shown(Math.tanh(value("cell")))} = ${shown(value("hidden"))}`;
  }
  const kept = value("update");
  return `h′ = z × h + (1 − z) × g: ${shown(kept)} × ${old("hidden")} + ${shown(1 - kept)} × ${shown(value("candidate"))} = ${shown(value("hidden"))}`;
}

function shown(value) {
  return value < 0 ? `(${number(value)})` : number(value);
}
