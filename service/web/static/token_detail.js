// The details of one token: the predicted tokens, and the values of one unit with the formula of its state.

import { findAll, row } from "./dom.js";
import { number, percent, probabilities, visible } from "./format.js";
import { KINDS } from "./inspection.js";
import { formulaOf, stepOf } from "./step.js";

const [title, caption, alternatives, gatesTitle, values, formula] =
  findAll(["detail-title", "detail-caption", "alternatives", "gates-title", "values", "formula"]);

// Shows them. `column` is the unit's in the matrices; `isBackward`: whether the text was read from its end.
export function showTokenDetail(found, { position, layer, unit }, column, isBackward) {
  const logprob = found.logprobs[position];
  title.textContent = `Token ${position}, “${visible(found.tokens[position])}”`;
  caption.textContent = logprob === null
    ? "The model reads this token first, and has no prediction for it"
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
  const step = at < 0 ? null : stepOf(found, layer, at, column, isBackward);
  formula.textContent = step ? formulaOf(step) : "";
}
