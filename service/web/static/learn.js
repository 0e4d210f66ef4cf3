// The lesson: five stops on one text, with the numbers of a served model.

import { Failure, post } from "./api.js";
import { attempt } from "./attempt.js";
import { CellDiagram } from "./components/cell_diagram.js";
import { Curves } from "./components/curves.js";
import { showLegend } from "./components/legend.js";
import { showModelCard } from "./components/model_card.js";
import { drawStrip, stripButton } from "./components/strip.js";
import { TokenView, activation } from "./components/token_view.js";
import { currentText } from "./current_text.js";
import { fill, find, make, row } from "./dom.js";
import { correlations } from "./features.js";
import { beginning, meter, number, percent, visible } from "./format.js";
import { Inspection, KINDS } from "./inspection.js";
import { differences, retention } from "./memory.js";
import { loadModels } from "./model_choice.js";
import { openingText } from "./sample.js";
import { formulaOf, stepOf } from "./step.js";

const MAX_CHARACTERS = 460;
const ALTERNATIVES = 20;
// Of versions published by the first releases.
const FEW_ALTERNATIVES = 5;
const NUM_ROWS = 8;
const NUM_RESETS = 3;
const CONTINUATION = { max_tokens: 80, n: 3, seed: 1 };
const CELLS = {
  lstm: "An LSTM: each unit has a cell state c beside its hidden state h.",
  gru: "A GRU has no cell state: its hidden state h is both what a unit keeps and what it says.",
  simple_rnn: "A SimpleRNN has neither cell state nor gates: only the hidden state h.",
};

const ids = [
  "none", "status", "found", "legend", "tokens", "previous", "next", "model", "layer", "unit", "cell-help", "step-text", "cell", "formula",
  "forget-title", "forget-text", "resets", "gates", "memory-text", "differences", "memory-help", "heat", "heat-shown", "heated", "next-title",
  "next-tokens", "sample", "samples", "states-text", "silent", "curves", "onward", "onward-name", "backward", "backward-name",
];
const page = Object.fromEntries(ids.map((id) => [id, find(id)]));

let models = [];
let model = null;
let input = ""; // the text
let reading = 0; // the number of the last time that a text was read
let found = null; // Inspection of the text
let reversed = null; // Inspection of the text in the other direction
let marks = null; // { name, places } of the tokens at which stop 2 looks
let resets = []; // strips of stop 2
let continued = ""; // text, position and temperature of stop 4
const chosen = { layer: 1, unit: 0, position: 0 };

const text = new TokenView(page.tokens, (position) => choose({ position }));
const diagram = new CellDiagram(page.cell);
const [gates, curves] = [page.gates, page.curves].map((figure) => new Curves(figure, (position) => choose({ position })));
const memory = new Curves(page.differences);

function listen() {
  page.model.addEventListener("change", () => attempt(read));
  page.layer.addEventListener("change", () => choose({ layer: Number(page.layer.value) }));
  page.unit.addEventListener("input", () => choose({ unit: Math.min(Number(page.unit.value) || 0, found.units(chosen.layer).length - 1) }));
  page.unit.addEventListener("change", () => { page.unit.value = chosen.unit; });
  page.previous.addEventListener("click", () => choose({ position: chosen.position - 1 }));
  page.next.addEventListener("click", () => choose({ position: chosen.position + 1 }));
  page.heat.addEventListener("input", showTemperature);
  page.sample.addEventListener("click", () => attempt(writeOn));
}

async function start() {
  models = await loadModels((message) => { page.status.textContent = message; });
  page.none.hidden = models.length > 0;
  if (!models.length) return;
  const [current] = (currentText()?.model ?? "").split(":");
  fill(page.model, models.map(({ id }) => [id, id]), models.some(({ id }) => id === current) ? current : models[0].id);
  page.model.closest("label").hidden = models.length < 2;
  await read();
  // The browser looked for the URL's stop before it existed.
  document.querySelector(":target")?.scrollIntoView();
}

// Reads the text with the selected model and shows all stops, unless another one has been selected meanwhile.
async function read() {
  const mine = ++reading;
  const selected = models.find(({ id }) => id === page.model.value);
  showModelCard(selected);
  page.status.textContent = "Reading a text…";
  try {
    const given = await readText(selected);
    if (mine !== reading) return;
    model = selected;
    ({ input, found, reversed } = given);
    showText();
    await compareMemory();
  } catch (error) {
    if (mine === reading) throw error; // not of a model that was left
  } finally {
    if (mine === reading) page.status.textContent = "";
  }
}

// Returns the text, and its inspections in both directions.
async function readText(model) {
  const written = currentText()?.text || await openingText(model, model.id, {});
  const input = beginning(written, MAX_CHARACTERS);
  if (!input) throw new Failure("The model wrote an empty text. Write one with another prompt.");
  const body = { model: model.id, input };
  const found = await Inspection.of({ ...body, logprobs: ALTERNATIVES }).catch((error) => {
    if (error.param !== "logprobs") throw error;
    return Inspection.of({ ...body, logprobs: FEW_ALTERNATIVES });
  });
  return { input, found, reversed: await Inspection.of({ ...body, logprobs: 0, include: ["hidden", "cell"], go_backwards: true }) };
}

function showText() {
  page.found.hidden = false;
  text.show(found.tokens);
  fill(page.layer, [...found.layers.keys()].map((layer) => [layer, layer || "top"]));
  page.layer.closest("label").hidden = found.layers.size < 2;
  document.querySelectorAll(".of-states").forEach((part) => part.toggleAttribute("hidden", !hasStates()));
  page["cell-help"].textContent = hasStates() ? CELLS[cellOf(1)] : `${model.id} carries no state: it recomputes its last ${model.context} tokens for each new one. Select a model with LSTM, GRU or SimpleRNN layers.`;
  marks = commonMarks();
  const best = showResets();
  const { layer = 1, unit = 0 } = best ?? model.discoveries?.[0] ?? {};
  choose({ layer, unit, position: marks.places.find((place) => place > 0) ?? 0 });
}

function hasStates() {
  return found.layers.has(1);
}

function isBackward() {
  return model.direction === "backward";
}

// The kind of a layer's cell, by its activations: an imported model's card may not have it.
function cellOf(layer = chosen.layer) {
  return found.matrix(layer, "forget") ? "lstm" : found.matrix(layer, "update") ? "gru" : found.matrix(layer, "hidden") ? "simple_rnn" : undefined;
}

// The state that keeps a unit's memory, and the gate that preserves it.
function kept() {
  return { lstm: "cell", gru: "hidden", simple_rnn: "hidden" }[cellOf()] ?? "top";
}

function keepingGate(layer = chosen.layer) {
  return { lstm: "forget", gru: "update" }[cellOf(layer)];
}

// Line feeds or, in a text of one line, the most frequent token.
function commonMarks() {
  const places = Map.groupBy(found.tokens.keys(), (place) => found.tokens[place]);
  const most = [...places].sort(([, one], [, other]) => other.length - one.length)[0];
  const [token, at] = (places.get("\n")?.length ?? 0) > 1 ? ["\n", places.get("\n")] : most;
  return { name: token === "\n" ? "line feed" : `“${visible(token)}”`, places: at };
}

// Selects a layer, a unit or a token, as far as they exist, and shows it at all stops.
function choose(changes) {
  Object.assign(chosen, changes);
  if (!found.layers.has(chosen.layer)) [chosen.layer] = found.layers.keys();
  chosen.unit = Math.max(0, Math.min(chosen.unit, found.units(chosen.layer).length - 1));
  chosen.position = Math.max(0, Math.min(chosen.position, found.tokens.length - 1));
  page.layer.value = chosen.layer;
  page.unit.max = found.units(chosen.layer).length - 1;
  if (document.activeElement !== page.unit) page.unit.value = chosen.unit;
  text.choose(chosen.position);
  const matrix = found.matrix(chosen.layer, kept());
  if (Object.keys(changes).join() !== "position") {
    text.paint(found.tokens, activation(found, matrix, chosen.unit));
    const most = matrix.strong(chosen.unit);
    showLegend(page.legend, `${hasStates() ? kept()[0] : "output"} of unit ${chosen.unit}: ${number(-most, 1)}`, number(most, 1), true);
    showStrips(matrix);
  }
  for (const { element, of } of resets) {
    element.setAttribute("aria-pressed", String(of.layer === chosen.layer && of.unit === chosen.unit));
    element.draw();
  }
  if (hasStates()) showStates(matrix);
  else ["step-text", "forget-text", "states-text"].forEach((id) => { page[id].textContent = "This model has no states to show."; });
  showTemperature();
}

// Stop 1, and the curves of stops 2 and 5.
function showStates(matrix) {
  const { layer, unit, position } = chosen;
  const step = stepOf(found, layer, position, unit, isBackward());
  const gate = keepingGate();
  page["step-text"].textContent = `Unit ${unit}${found.layers.size > 1 ? ` of layer ${layer}` : ""} reads “${visible(found.tokens[position])}”. ` + {
    forget: () => `Of its old cell state, ${number(step.oldCell)}, the forget gate leaves ${number(step.forget * step.oldCell)}; the input gate adds ${number(step.input * step.candidate)}. The output gate shows ${percent(Math.log(step.output))} of tanh c′ as the new hidden state.`,
    update: () => `Its new hidden state is a mixture: ${percent(Math.log(step.update))} of the old one, and the rest of the candidate g.`,
    undefined: () => "It has no gates: its new hidden state is computed from the token and from h of all units, so nothing is simply kept. The API returns no more than h, so the drawing has no other numbers.",
  }[gate]();
  diagram.show(step, matrix.most(unit));
  page.formula.textContent = formulaOf(step) || `h′ = tanh(W x + U h + b) = ${number(step.hidden)}`;
  if (gate) gates.show(multiples(gate === "forget" ? ["forget", "input", "cell"] : ["update", "hidden"]));
  page.gates.hidden = page.resets.hidden = !gate;
  curves.show(multiples(["cell", "output", "reset", "hidden"].filter((kind) => found.matrix(layer, kind))));
  showSilent();
}

function nameOf(kind) {
  return KINDS[kind].name.replace(" (remember)", "");
}

// Curves of the selected unit.
function multiples(kinds) {
  const { layer, unit, position } = chosen;
  return {
    curves: kinds.map((kind) => {
      const matrix = found.matrix(layer, kind);
      const most = kind === "cell" ? Math.ceil(matrix.most(unit)) : 1;
      const points = matrix.column(unit).map((value, place) => [place, value]);
      return { name: `${nameOf(kind)}: ${number(matrix.at(position, unit))}`, points, least: matrix.signed ? -most : 0, most };
    }),
    length: found.tokens.length, marks: marks.places, at: position, axis: `token; dashed: ${marks.name}`,
    label: `${kinds.map((kind) => KINDS[kind].name).join(", ")} of unit ${unit} over the text`,
  };
}

// Stop 2: the units whose gate closes most at the marks; returns the best one.
function showResets() {
  const kind = keepingGate(1);
  page["forget-title"].textContent = kind ? `2. The ${kind} gate at a ${marks.name}` : "2. Forgetting";
  page["forget-text"].textContent = `${CELLS.simple_rnn} So nothing decides what is forgotten: each step overwrites all of h. Select a model of LSTM or GRU layers to see a gate at work.`;
  resets = [];
  if (!kind) return undefined;
  const target = Float32Array.from(found.tokens, (_, place) => Number(marks.places.includes(place)));
  const all = [...found.layers].filter(([layer]) => keepingGate(layer) === kind).flatMap(([layer, { matrices }]) =>
    [...correlations(matrices.get(kind), target, 0, target.length)].map((correlation, unit) => ({ layer, unit, correlation })));
  const best = all.sort((one, other) => one.correlation - other.correlation).slice(0, NUM_RESETS);
  resets = best.map((of) => {
    const values = found.matrix(of.layer, kind).column(of.unit);
    const detail = `${KINDS[kind].name.at(-1)} is ${number(mean(values, true))} at a ${marks.name}, ${number(mean(values, false))} elsewhere`;
    return { of, values, element: stripButton(`Unit ${of.unit}`, detail, values, 1, () => choose({ layer: of.layer, unit: of.unit })) };
  });
  page.resets.replaceChildren(...resets.map(({ element }) => element));
  const [at, elsewhere] = [true, false].map((isMark) => mean(resets[0].values, isMark));
  page["forget-text"].textContent = at < elsewhere / 2
    ? `Here are three units that forget there. Unit ${best[0].unit} keeps ${percent(Math.log(elsewhere))} of its state from token to token, but ${percent(Math.log(at))} of it at a ${marks.name}: it starts anew, without having been taught to.`
    : `No unit drops half of its state at a ${marks.name}; these three come closest. The model may need more training, or another text.`;
  return best[0];
}

function mean(values, isMark) {
  const some = values.filter((_, place) => marks.places.includes(place) === isMark);
  return some.reduce((sum, value) => sum + value, 0) / Math.max(1, some.length);
}

// Stop 3: what remains of a changed token, in the selected model and in one of each other cell type.
async function compareMemory() {
  page.differences.replaceChildren();
  page["memory-help"].textContent = "";
  page["memory-text"].textContent = "Only a model with a state remembers: select one.";
  const shown = found;
  const others = models.filter(({ id, corpus, cell, context }) => id !== model.id && corpus === model.corpus && cell !== model.cell && !context);
  const compared = [model, ...new Map(others.map((each) => [each.cell, each])).values()].filter(({ context }) => !context);
  if (!compared.length) return;
  const measured = (await Promise.all(compared.map((each) => differences(each, input)))).flat();
  if (shown !== found) return;
  if (!measured.length) {
    page["memory-text"].textContent = "All tokens of the text are the same, so none can be changed for another: write one with different tokens.";
    return;
  }
  const { curves: lines, length, text: explanation, note } = retention(model, measured);
  [page["memory-text"].textContent, page["memory-help"].textContent] = [explanation, note];
  memory.show({ curves: lines, length, axis: "tokens since then", label: explanation });
}

// Stop 4: the next token after the selected one, before and after the temperature.
function showTemperature() {
  const heat = Number(page.heat.value);
  const shown = `${reading} ${chosen.position} ${heat}`;
  if (continued !== shown) page.samples.replaceChildren();
  continued = shown;
  const next = chosen.position + (isBackward() ? -1 : 1);
  const tokens = Object.entries(found.alternatives[next] ?? found.expected).sort(([, one], [, other]) => other - one);
  const most = tokens[0][1];
  const heated = tokens.map(([, logprob]) => Math.exp((logprob - most) / heat));
  const sum = heated.reduce((total, value) => total + value, 0);
  page["heat-shown"].textContent = page.heated.textContent = `T = ${heat.toFixed(1)}`;
  const covered = tokens.reduce((total, [, logprob]) => total + Math.exp(logprob), 0);
  page["next-title"].textContent = `${isBackward() ? "Before" : "After"} “${visible(found.tokens[chosen.position])}”: ${Math.min(NUM_ROWS, tokens.length)} of the ${tokens.length} most probable tokens, which have ${percent(Math.log(Math.min(1, covered)))} of the probability`;
  page["next-tokens"].replaceChildren(...tokens.slice(0, NUM_ROWS).map(([token, logprob], i) =>
    row([visible(token), meter(logprob), meter(Math.log(heated[i] / sum))])));
}

async function writeOn() {
  const { position } = chosen;
  const begun = continued;
  const given = isBackward() ? { suffix: found.tokenIds.slice(position) } : { prompt: found.tokenIds.slice(0, position + 1) };
  const { choices } = await post("v1/completions", { model: found.reference, ...given, ...CONTINUATION, temperature: Number(page.heat.value) });
  if (begun !== continued) return; // changed meanwhile
  page.samples.replaceChildren(...choices.map((choice) => make("p", { textContent: choice.text })));
}

// Stop 5: the token at which the unit keeps most of what it does not show.
function showSilent() {
  const { layer, unit } = chosen;
  const [cell, hidden] = ["cell", "hidden"].map((kind) => found.matrix(layer, kind));
  page.silent.hidden = !cell;
  page["states-text"].textContent = CELLS[cellOf()];
  if (!cell) return;
  const kept = found.tokens.map((_, place) => Math.abs(Math.tanh(cell.at(place, unit))) - Math.abs(hidden.at(place, unit)));
  const place = kept.indexOf(Math.max(...kept));
  page["states-text"].textContent = `The cell state is memory, the hidden state is speech. At token ${place}, “${visible(found.tokens[place])}”, unit ${unit} remembers c = ${number(cell.at(place, unit), 2)}, but says only h = ${number(hidden.at(place, unit), 2)}: its output gate is ${number(found.matrix(layer, "output").at(place, unit), 2)} there.`;
  page.silent.textContent = `Go to token ${place}`;
  page.silent.onclick = () => choose({ position: place });
}

function showStrips(matrix) {
  if (!hasStates()) return;
  const { layer, unit } = chosen;
  const most = matrix.strong(unit);
  for (const [canvas, name, values, fromEnd] of [["onward", "onward-name", matrix, isBackward()], ["backward", "backward-name", reversed.matrix(layer, kept()), !isBackward()]]) {
    page[name].textContent = `${nameOf(kept())} of unit ${unit}, read from the ${fromEnd ? "end" : "start"}`;
    page[canvas].setAttribute("aria-label", page[name].textContent);
    drawStrip(page[canvas], values.column(unit), most);
  }
}

document.addEventListener("theme", () => found && choose({ ...chosen }));
listen();
attempt(start);
