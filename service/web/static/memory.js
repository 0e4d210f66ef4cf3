// How long a state remembers a token: the difference of states after each token of two texts that differ only in that one.

import { CELLS } from "./components/model_card.js";
import { beginning, number, visible } from "./format.js";
import { Inspection } from "./inspection.js";

// A stage direction that does not end.
const PROBE = "[Enter a messenger with letters from the king and all the lords of the council and the ladies of the court";
const KINDS = { cell: "cell state", hidden: "hidden state" };
// Measured by this page on a SimpleRNN of 512 units, trained like the demo (benchmarks/HISTORY.md).
const STORED = {
  name: "SimpleRNN, earlier: hidden state",
  points: [
    [0, 1.144], [1, 0.859], [2, 0.68], [3, 0.528], [4, 0.425], [6, 0.242], [8, 0.177], [12, 0.166], [16, 0.145], [24, 0.099], [32, 0.066],
    [48, 0.026], [64, 0.005], [80, 0.001], [105, 0.001],
  ],
};
const STORED_NOTE = "No SimpleRNN of this corpus is served here. Its curve was measured earlier, with 512 units trained on the same plays for as long as the demo, to a loss of 1.67.";

// Returns how much each kind of state of a model's top layer differs at each distance from the changed token: the norm of
// the difference divided by that of the state. A model of plays reads PROBE with and without its bracket, others the
// beginning of `text`, with another of its tokens instead of the first; empty if there is no other.
export async function differences(model, text) {
  const isBackward = model.direction === "backward";
  const body = { model: model.id, include: ["hidden", "cell"], logprobs: 0 };
  const one = await Inspection.of({ ...body, input: readsPlays(model) ? PROBE : beginning(text, PROBE.length) });
  const changed = isBackward ? one.tokens.length - 1 : 0;
  const other = replacement(one.tokens, one.tokens[changed]);
  if (other === undefined) return [];
  const changedIds = one.tokenIds.map((id, place) => (place === changed ? one.tokenIds[one.tokens.indexOf(other)] : id));
  const second = await Inspection.of({ ...body, input: changedIds });
  const layer = Math.max(...one.layers.keys());
  return Object.entries(KINDS).filter(([kind]) => one.matrix(layer, kind)).map(([kind, label]) => {
    const [a, b] = [one, second].map((each) => each.matrix(layer, kind));
    const points = one.tokens.map((_, distance) => [distance, difference(a, b, Math.abs(changed - distance))]);
    return { name: `${model.id}, ${CELLS[model.cell] ?? model.cell}: ${label}`, points, cell: model.cell, tokens: [one.tokens[changed], other] };
  });
}

// The page's view of measured differences: the curves, the length of their axis, a text and a note.
export function retention(model, measured) {
  const isStored = readsPlays(model) && !measured.some(({ cell }) => cell === "simple_rnn");
  const all = isStored ? [...measured, STORED] : measured;
  const length = Math.max(...all.map(({ points }) => points.at(-1)[0])) + 1;
  const [before, after] = measured[0].tokens.map(visible);
  // At first they may differ by more than the state.
  const curves = all.map(({ name, points }) => ({
    name: `${name}, ${percentage(points.at(-1)[1])} in the end`, points: points.map(([place, value]) => [place, Math.min(1, value)]), least: 0, most: 1,
  }));
  return {
    curves, length,
    text: `A model reads a text twice, the second time with “${after}” instead of “${before}” at its ${model.direction === "backward" ? "end" : "beginning"}. How much do the two states differ, as a share of the state, as more tokens are read?`,
    note: `Forget gates near 1 preserve a cell state as long as it helps to predict: an open bracket does, the first character of a text hardly does. A SimpleRNN computes its whole state anew at each token, and older content fades. ${isStored ? STORED_NOTE : ""}`,
  };
}

function readsPlays({ corpus, unit, direction }) {
  return corpus === "shakespeare" && unit === "character" && direction !== "backward";
}

// The most frequent token except one; undefined if there is no other.
function replacement(tokens, one) {
  const others = tokens.filter((token) => token !== one);
  const times = (token) => others.filter((each) => each === token).length;
  return others.reduce((most, token) => (times(token) > times(most) ? token : most), others[0]);
}

function difference(one, other, row) {
  let [squares, all] = [0, 0];
  for (let column = 0; column < one.columns; column++) {
    squares += (one.at(row, column) - other.at(row, column)) ** 2;
    all += one.at(row, column) ** 2;
  }
  return Math.sqrt(squares / (all || 1));
}

function percentage(share) {
  return `${number(100 * share, share < 0.1 ? 1 : 0)}%`;
}
