// The page of the models that are served: versions, labels and traffic split.

import { attempt } from "./attempt.js";
import { find, row } from "./dom.js";
import { count } from "./format.js";
import { toHash } from "./link.js";
import { loadModels } from "./model_choice.js";
import { startTheme } from "./theme.js";

const UNITS = { character: "characters", word: "words", exact_word: "words as written", subword: "subwords" };
const CELLS = { lstm: "LSTM", gru: "GRU", simple_rnn: "SimpleRNN" };

async function start() {
  const models = await loadModels();
  find("none").hidden = models.length > 0;
  find("list").replaceChildren(...models.map(card));
}

function card(model) {
  const element = find("card").content.firstElementChild.cloneNode(true);
  element.querySelector("h2").textContent = model.id;
  element.querySelector(".help").textContent = summary(model);
  element.querySelector("tbody").append(...model.versions.map(({ version, labels, share }) => row([String(version), labels.join(", ") || "–", traffic(share)])));
  const [write, inspect, train] = element.querySelectorAll("a");
  write.href = `./${toHash({ prompt: "", columns: [{ model: model.id }] })}`;
  inspect.href = `inspector${toHash({ model: model.id, text: "" })}`;
  train.href = `train?from=${encodeURIComponent(model.id)}`;
  return element;
}

function summary({ parent, provenance, cell, layers, units, unit, vocab_size, direction, context, precision, created }) {
  return [
    `${CELLS[cell] ?? cell} ${layers > 1 ? `${layers} × ` : ""}${count(units)}`,
    UNITS[unit] ?? unit,
    `vocabulary ${count(vocab_size)}`,
    ...(direction === "backward" ? ["backward"] : []),
    ...(context ? [`sliding window of ${context}`] : []),
    ...(parent ? [`continued from ${parent}`] : []),
    ...(provenance ? [`${provenance.title} (${provenance.license})`] : []),
    ...(precision ? [precision] : []),
    new Date(created * 1000).toLocaleDateString("en", { dateStyle: "medium" }),
  ].join(" · ");
}

function traffic(share) {
  const bar = Object.assign(document.createElement("meter"), { value: share, title: `${Math.round(100 * share)}% of the traffic` });
  return [bar, ` ${Math.round(100 * share)}%`];
}

startTheme();
attempt(start);
