// A one-line description of a model, for the header of all pages and for its card.

import { find } from "../dom.js";
import { count, number } from "../format.js";

const UNITS = { character: "characters", word: "words", exact_word: "words as written", subword: "subwords", regex: "matches of regular expressions" };
export const CELLS = { lstm: "LSTM", gru: "GRU", simple_rnn: "SimpleRNN" };

// Shows the page's model in the header.
export function showModelCard(model) {
  if (!model) return;
  const { id, cell, layers, units, unit, corpus, trained_s: seconds, validation_loss: loss } = model;
  const facts = [
    kind(cell, layers, units),
    UNITS[unit] ?? unit,
    ...(corpus ? [corpus] : []),
    ...(seconds ? [`trained ${seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`}`] : []),
    ...(loss ? [`loss ${number(loss, 2)}`] : []),
  ];
  const [name, more, train] = find("model-card").children;
  name.textContent = id;
  more.textContent = facts.map((fact) => ` · ${fact}`).join("");
  train.href = `${train.dataset.root}train?from=${encodeURIComponent(id)}`;
  find("model-card").hidden = false;
}

function kind(cell, layers, units) {
  return `${CELLS[cell] ?? cell ?? "layers"} ${layers > 1 ? `${layers} × ` : ""}${count(units)}`;
}

export function summary({ provenance, cell, layers, units, unit, vocab_size, direction, context, precision }) {
  return [
    kind(cell, layers, units),
    UNITS[unit] ?? unit,
    `vocabulary ${count(vocab_size)}`,
    ...(direction === "backward" ? ["backward"] : []),
    ...(context ? [`sliding window of ${context}`] : []),
    ...(provenance ? [`${provenance.title} (${provenance.license})`] : []),
    ...(precision ? [precision] : []),
  ].join(" · ");
}
