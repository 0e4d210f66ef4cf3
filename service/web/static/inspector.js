// The inspector: what a model computes and predicts at each token of a text.

import { Failure } from "./api.js";
import { attempt } from "./attempt.js";
import { palette } from "./colors.js";
import { showLegend } from "./components/legend.js";
import { showModelCard } from "./components/model_card.js";
import { currentText, keepText } from "./current_text.js";
import { PHONE, fill, find, make } from "./dom.js";
import { EmbeddingMap } from "./embedding.js";
import { correlations } from "./features.js";
import { indexOfMin, number, visible } from "./format.js";
import { Heatmap } from "./components/heatmap.js";
import { Inspection, KINDS } from "./inspection.js";
import { Intervention } from "./intervention.js";
import { LabelChoice } from "./label_choice.js";
import { fromHash, note } from "./link.js";
import { ModelChoice } from "./model_choice.js";
import { openingText } from "./sample.js";
import { Shell } from "./shell.js";
import { PatternSearch } from "./pattern_search.js";
import { showTokenDetail } from "./token_detail.js";
import { SURPRISE_ENDS, TokenView, activation, surprise } from "./components/token_view.js";
import { UnitSearch } from "./unit_search.js";

// Gates of texts with more values than this are loaded on request.
const MAX_VALUES_AT_ONCE = 4e6;
const ALTERNATIVES = 5;

const ids = [
  "change", "shown-model", "text", "model", "version", "max_positions", "max_units", "backwards", "status", "found", "color",
  "tokens", "color-help", "legend", "layer", "kind", "kind-help", "unit", "order", "width", "heat", "map", "map-legend",
  "pointed", "gates", "inner", "hold-more", "elsewhere-more", "png", "json", "embedding",
];
const page = Object.fromEntries(ids.map((id) => [id, find(id)]));

const models = new ModelChoice(page.model, page.version, () => {
  labels.show(models.model);
  keep();
});
const labels = new LabelChoice(page.version.closest("label"), 0, keep);
const text = new TokenView(page.tokens, (position) => choose({ position }), (first, last) => patternSearch.select(first, last));
const map = new Heatmap(page.map, {
  chosen: (row, column) => choose({ position: found.positions[row], unit: found.units(chosen.layer)[column] }),
  pointed: (under) => showPointed(under),
});
const unitSearch = new UnitSearch({
  chosen: showUnit,
  found: () => {
    order.of.clear();
    choose({});
  },
});
const patternSearch = new PatternSearch({ run, marked: (stretch) => text.mark(stretch), chosen: (position) => choose({ position }) });
const intervention = new Intervention(run);
const plane = new EmbeddingMap();
const shell = new Shell({
  submit: () => inspect(null),
  models: (served) => showModels(served),
});
document.addEventListener("theme", () => {
  plane.draw();
  if (found) choose({});
});
let found = null; // Inspection
let request = null; // its request
let inspected = null; // the object of /v1/models of its model
let order = { by: "number", of: new Map() };
const chosen = { layer: 1, kind: "hidden", unit: 0, position: null };

async function start() {
  page.width.value = 10;
  for (const name of ["inner", "hold-more", "elsewhere-more"]) page[name].open = !matchMedia(PHONE).matches;
  listen();
  const linked = fromHash(location.hash, (given) => typeof given.text === "string");
  const shown = linked ?? currentText();
  page.text.value = shown?.text ?? "";
  for (const name of ["max_positions", "max_units"]) page[name].value = shown?.[name] ?? "";
  page.backwards.checked = Boolean(shown?.go_backwards);
  for (const name of Object.keys(chosen)) chosen[name] = shown?.[name] ?? chosen[name];
  page.color.value = ["probability", "prediction", "unit"].includes(shown?.color) ? shown.color : "unit";
  await open(shown, linked?.color === undefined);
}

// Loads the models, and inspects the text that is `shown`.
async function open(shown, discovers) {
  if (!(await shell.loadModels((served) => showModels(served, shown), () => open(shown, discovers)))) return;
  await inspect(chosen.position, { discovers, writes: !page.text.value });
  page.change.open = !found;
}

// Offers the models and the labels of the chosen one; at first those of the `shown` text.
function showModels(served, shown) {
  models.show(served, shown?.model);
  labels.show(models.model, shown?.labels);
}

function listen() {
  for (const name of ["text", "max_positions", "max_units", "backwards"]) page[name].addEventListener("input", keep);
  page.color.addEventListener("change", () => { colorTokens(); keep(); });
  page.layer.addEventListener("change", () => choose({ layer: Number(page.layer.value) }));
  page.kind.addEventListener("change", () => choose({ kind: page.kind.value }));
  page.unit.addEventListener("input", (event) => choose({ unit: unitOf(event) }));
  page.unit.addEventListener("change", () => { page.unit.value = chosen.unit; });
  page.order.addEventListener("change", () => { order = { by: page.order.value, of: new Map() }; showMap(); });
  page.width.addEventListener("input", () => { showMap(); map.reveal(); });
  page.gates.addEventListener("click", loadGates);
  page.png.addEventListener("click", () => attempt(savePicture));
  page.json.addEventListener("click", () => attempt(async () => save(await found.json(), "json")));
  page.embedding.addEventListener("toggle", showPlane);
  page.heat.addEventListener("toggle", () => { showMap(); if (found) map.reveal(); });
}

// Inspects the text, and shows the result, with the token at `position` selected; null: the least probable one.
// `discovers`: select the unit of the first discovery, as when the model changes; `writes`: the model writes the text
// first.
async function inspect(position, { discovers = inspected?.id !== models.model?.id, writes = false } = {}) {
  await run("Inspecting…", async (signal) => {
    if (writes && models.model) page.text.value = await openingText(models.model, models.reference, labels.chosen, signal);
    await read(position, discovers, signal);
  });
}

async function read(position, discovers, signal) {
  const wanted = {
    model: models.reference, input: page.text.value, labels: labels.chosen, logprobs: ALTERNATIVES,
    go_backwards: page.backwards.checked, max_positions: limit(page.max_positions), max_units: limit(page.max_units),
  };
  const { model } = models;
  const { layers = 1, units = 512 } = model ?? {};
  // An estimate: most tokens have at least one character.
  const numTokens = Math.min(wanted.input.length, wanted.max_positions ?? Infinity);
  const isLarge = numTokens * layers * Math.min(units, wanted.max_units ?? Infinity) * 6 > MAX_VALUES_AT_ONCE;
  const read = await Inspection.of(isLarge ? { ...wanted, include: ["hidden", "cell"] } : wanted, signal);
  if (!read.tokens.length) throw new Failure("The text is empty. Enter a text and inspect it.");
  [found, request, inspected, chosen.position] = [read, wanted, model, position];
  order = { by: "number", of: new Map() };
  page.order.value = "number";
  keepText({ ...wanted, text: wanted.input });
  page["shown-model"].textContent = `${found.reference}, ${found.tokens.length} tokens: change text or model`;
  show();
  const discovery = await unitSearch.use(found, model);
  if (discovers && discovery) showUnit(discovery);
  else choose({});
}

function showUnit({ layer, kind, unit }) {
  page.color.value = "unit";
  choose({ layer, kind, unit });
}

async function loadGates() {
  const { layer } = chosen;
  await run("Loading gates…", async (signal) => {
    // By the same version, as the default may have changed.
    const wanted = { ...request, model: found.reference, include: ["gates"], layers: [layer], logprobs: 0 };
    await found.extend(wanted, signal);
    choose({});
  });
}

function run(label, work) {
  return shell.run(label, work, () => `${found.tokens.length} tokens inspected.`);
}

function limit(input) {
  return input.value === "" ? undefined : Number(input.value);
}

function show() {
  page.found.hidden = false;
  text.show(found.tokens);
  fill(page.layer, [...found.layers.keys()].map((layer) => [layer, layer || "top"]));
  choose({});
  map.reveal();
  showPlane();
}

// Selects a layer, kind of value, unit or token, as far as they exist, and shows it.
function choose(changes) {
  if (!found) return;
  Object.assign(chosen, changes);
  if (!found.layers.has(chosen.layer)) [chosen.layer] = found.layers.keys();
  const units = found.units(chosen.layer);
  // The nearest of the units in the response.
  chosen.unit = units.reduce((one, other) => (Math.abs(other - chosen.unit) < Math.abs(one - chosen.unit) ? other : one), units[0]);
  const kinds = found.kinds(chosen.layer);
  if (!kinds.includes(chosen.kind)) [chosen.kind] = kinds;
  // Initially the least probable token.
  chosen.position ??= indexOfMin(found.logprobs);
  chosen.position = Math.max(0, Math.min(Number(chosen.position) || 0, found.tokens.length - 1));
  page.layer.value = chosen.layer;
  fill(page.kind, kinds.map((kind) => [kind, KINDS[kind].name]), chosen.kind);
  page["kind-help"].textContent = `${KINDS[chosen.kind].name}: ${KINDS[chosen.kind].help}.`;
  page.unit.max = units.at(-1);
  // While a number is typed, the nearest unit would overwrite its first digits.
  if (document.activeElement !== page.unit) page.unit.value = chosen.unit;
  page.gates.hidden = found.hasGates(chosen.layer) || !hasGates();
  text.choose(chosen.position);
  if (Object.keys(changes).join() !== "position") colorTokens();
  unitSearch.mark(chosen);
  patternSearch.offer(found, chosen, column(), request);
  intervention.offer(found, chosen, column(), inspected?.direction === "backward", request.labels);
  showMap();
  if (changes.position !== undefined) map.reveal();
  showTokenDetail(found, chosen, column(), isReadBackwards());
  if (page.embedding.open) plane.choose(found.tokenIds[chosen.position]);
  keep();
}

function hasGates() {
  return inspected?.cell !== "simple_rnn" && chosen.layer > 0; // null: of several kinds
}

// The unit that is typed; the arrows of the field lead to the next one in the response.
function unitOf({ inputType }) {
  const typed = Number(page.unit.value);
  const step = typed - chosen.unit;
  if (inputType || Math.abs(step) !== 1) return typed;
  return (page.unit.value = found.units(chosen.layer)[column() + step] ?? chosen.unit);
}

function matrix() {
  return found.matrix(chosen.layer, chosen.kind);
}

function column() {
  return found.units(chosen.layer).indexOf(chosen.unit);
}

// The row of the selected token, or the nearest one in the response.
function chosenRow() {
  const exact = found.rowOf[chosen.position];
  return exact >= 0 ? exact : found.positions.filter((position) => position < chosen.position).length;
}

function colorTokens() {
  if (!found) return;
  const { tokens, logprobs, alternatives } = found;
  const by = page.color.value;
  const mostProbable = (position) => Object.entries(alternatives[position] ?? {}).sort(([, one], [, other]) => other - one)[0]?.[0];
  const predicted = by === "prediction" ? tokens.map((token, position) => mostProbable(position) ?? token) : tokens;
  const differs = predicted.map((token, position) => token !== tokens[position]);
  const warm = palette().css(1, 1);
  const colors = by === "unit" ? activation(found, matrix(), column())
    : by === "prediction" ? differs.map((other) => (other ? warm : "transparent"))
      : surprise(logprobs);
  // Predicted tokens keep the lines of the text.
  const texts = predicted.map((token, position) => (differs[position] ? visible(token) + (tokens[position].endsWith("\n") ? "\n" : "") : token));
  text.paint(texts, colors);
  const numDifferent = differs.filter(Boolean).length;
  page["color-help"].textContent = {
    probability: "The warmer the color, the more the token surprised the model. Click a token to see what it predicted.",
    prediction: `The most probable token at each position, colored where it differs from the text: ${numDifferent} of ${tokens.length}.`,
    unit: `Unit ${chosen.unit} of layer ${chosen.layer}, ${KINDS[chosen.kind].name}, after each token.`,
  }[by];
  const most = matrix().strong(column());
  if (by === "unit") showLegend(page.legend, matrix().signed ? number(-most, 2) : "0", number(most, 2), matrix().signed);
  else if (by === "probability") showLegend(page.legend, ...SURPRISE_ENDS, false);
  else page.legend.replaceChildren();
}

// The order of a layer's units from top to bottom: by number, or by correlation with the feature of the last search.
function ordered() {
  const key = `${chosen.layer} ${chosen.kind}`;
  if (!order.of.has(key)) {
    const columns = found.units(chosen.layer).map((_, column) => column);
    const target = order.by === "correlation" ? unitSearch.target : null;
    if (target) {
      const correlation = correlations(matrix(), target, 0, target.length);
      columns.sort((one, other) => correlation[other] - correlation[one]);
    }
    order.of.set(key, columns);
  }
  return order.of.get(key);
}

function showMap() {
  if (!found) return;
  const kinds = found.kinds(chosen.layer).filter((kind) => ["hidden", "cell", "top", "forget", "update", "input", "reset", "output"].includes(kind));
  const curves = kinds.map((kind) => ({ name: KINDS[kind].name, matrix: found.matrix(chosen.layer, kind) }));
  map.show({
    matrix: matrix(), order: ordered(), labels: found.positions.map((position) => found.tokens[position]),
    width: Number(page.width.value), curves, row: chosenRow(), column: column(),
  });
  const { limit, signed } = matrix();
  showLegend(page["map-legend"], signed ? number(-limit, 2) : "0", number(limit, 2), signed);
  showPointed(null);
}

// Shows the value under the pointer, or the selected one.
function showPointed(under) {
  if (!found) return;
  const at = under?.inside ? under : { row: chosenRow(), column: column() };
  const position = found.positions[at.row];
  // Screen readers skip what the pointer passes over.
  page.pointed.ariaLive = under ? "off" : "polite";
  page.pointed.textContent =
    `Unit ${found.units(chosen.layer)[at.column]} after token ${position}, “\u2068${visible(found.tokens[position])}\u2069”: ${number(matrix().at(at.row, at.column))}`;
}

function isReadBackwards() {
  return (inspected?.direction === "backward") !== Boolean(request.go_backwards);
}

async function showPlane() {
  if (!page.embedding.open || !found) return;
  await plane.show(found.reference);
  await plane.choose(found.tokenIds[chosen.position]);
}

async function savePicture() {
  const title = `${found.reference}, layer ${chosen.layer}, ${KINDS[chosen.kind].name}, ${matrix().columns} units, ${matrix().rows} tokens`;
  const { blob, tokensPerPixel } = await map.picture(title);
  save(blob, "png");
  if (tokensPerPixel > 1) {
    page.status.textContent = `The heat map exceeds the maximum width of a PNG: each pixel is the mean of ${tokensPerPixel} tokens.`;
  }
}

// Downloads a file.
function save(blob, ending) {
  const download = `${found.reference.replace(":", "-")}-layer${chosen.layer}-${chosen.kind}.${ending}`;
  const link = make("a", { href: URL.createObjectURL(blob), download });
  link.click();
  // Some browsers fetch it only afterwards.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Keeps what is shown in the address; without models, what it had, for the next attempt.
function keep() {
  if (!models.reference) return;
  showModelCard(models.model);
  note({
    model: models.reference, text: page.text.value, labels: labels.chosen, go_backwards: page.backwards.checked || undefined,
    max_positions: page.max_positions.value || undefined, max_units: page.max_units.value || undefined,
    color: page.color.value, ...chosen,
  });
}

attempt(start);
