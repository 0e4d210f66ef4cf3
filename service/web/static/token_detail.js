// The details of one token: the predicted tokens, and the values of one unit with the formula of its state.

import { findAll, row } from "./dom.js";
import { number, percent, probabilities, visible } from "./format.js";
import { KINDS } from "./inspection.js";

const [title, caption, alternatives, gatesTitle, values, formula] =
  findAll(["detail-title", "detail-caption", "alternatives", "gates-title", "values", "formula"]);

// Shows them. `column` is the unit's in the matrices; `isBackward`: whether the text was read from its end.
export function showTokenDetail(found, { position, layer, unit }, column, isBackward) {
  const logprob = found.logprobs[position];
  title.textContent = `Token ${position}, “${visible(found.tokens[position])}”`;
  caption.textContent = logprob === null
    ? "First token: the model has no prediction for it"
    : `Predicted tokens; probability of this token ${percent(logprob)}`;
  alternatives.parentElement.tHead.hidden = logprob === null;
  alternatives.replaceChildren(...probabilities(found.alternatives[position] ?? {}, found.tokens[position]));
  const at = found.rowOf[position];
  const kinds = at < 0 ? [] : found.kinds(layer);
  gatesTitle.textContent = at < 0 ? "No values for this token: excluded by Max positions shown" : `Layer ${layer}, unit ${unit}, after this token`;
  values.replaceChildren(...kinds.map((kind) => {
    const matrix = found.matrix(layer, kind);
    const line = row([KINDS[kind].name, number(matrix.at(at, column)), number(matrix.mean(at))]);
    line.title = KINDS[kind].help;
    return line;
  }));
  formula.textContent = at < 0 ? "" : calculation(found, layer, at, column, isBackward);
}

// The formula of the state in numbers, if the previous state is available: Keras's LSTM and GRU.
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
