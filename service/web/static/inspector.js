// The page that looks into a model: a text is read, and what the model held, did and expected at each token is shown.

import { Failure, postForBlob } from "./api.js";
import { palette } from "./colors.js";
import { EmbeddingMap } from "./embedding.js";
import { correlations } from "./features.js";
import { Heatmap } from "./heatmap.js";
import { Inspection, KINDS } from "./inspection.js";
import { copyAddress, fromHash, note } from "./link.js";
import { ModelChoice, fill, loadModels } from "./models.js";
import { TokenView, activation, tokenProbabilities } from "./token_view.js";
import { showTokenDetail } from "./token_detail.js";
import { TaskRunner, attempt, startTheme } from "./shell.js";
import { number, placeOfLeast, visible } from "./format.js";
import { UnitSearch } from "./unit_search.js";

const SAMPLE = `The function returns a list of names (strings). If "name" is not given, it is taken from the file.
Note: the value may be None. See also "open" and "close" (both are described below).
Changed in version 3.8: The parameters a, b and c are optional, and default to (1, 2, 3).

If an object is "true" or "false" (as a Boolean value), the method returns it; else an exception is raised.
The class "Reader" has two methods: "read" (which takes the number of bytes) and "close" (which takes none).
A string can be sliced with two indices, as in "text[2:5]" or, from the end, "text[-3:]" (both are strings).
`;
// Texts with more numbers than this bring their gates only when they are wanted.
const MAX_VALUES_AT_ONCE = 4e6;
const ALTERNATIVES = 5;

const ids = [
  "request", "text", "model", "version", "max_positions", "max_units", "read", "stop", "share", "backwards", "status",
  "found", "paint", "tokens", "paint-help", "layer", "kind", "kind-help", "unit", "order", "width", "map", "low", "ramp",
  "high", "courses", "pointed", "gates", "png", "json", "embedding", "embedding-told", "plane", "neighbors",
];
const page = Object.fromEntries(ids.map((id) => [id, document.getElementById(id)]));

const models = new ModelChoice(page.model, page.version, keep);
const text = new TokenView(page.tokens, (place) => choose({ place }));
const map = new Heatmap(page.map, {
  chosen: (at, column) => choose({ place: found.positions[at], unit: found.units(chosen.layer)[column] }),
  pointed: (under) => tellPointed(under),
});
const unitSearch = new UnitSearch({
  chosen: (unit) => {
    page.paint.value = "unit";
    choose(unit);
  },
  found: () => {
    order.of.clear();
    showMap();
  },
}, attempt);
const plane = new EmbeddingMap({ canvas: page.plane, rows: page.neighbors, told: page["embedding-told"] }, attempt);
const tasks = new TaskRunner(
  { form: page.request, submit: page.read, stop: page.stop, status: page.status },
  async () => models.show(await loadModels().catch(() => [])),
);
let found = null; // Inspection
let asked = null; // the request that it is the answer to
let reader = null; // what the service says of the model that read
let order = { by: "number", of: new Map() };
const chosen = { layer: 1, kind: "hidden", unit: 0, place: null };

async function start() {
  startTheme(retheme);
  page.width.value = 10;
  listen();
  const shown = fromHash(location.hash, (given) => typeof given.text === "string");
  page.text.value = shown?.text ?? SAMPLE;
  for (const name of ["max_positions", "max_units"]) page[name].value = shown?.[name] ?? "";
  page.backwards.checked = Boolean(shown?.go_backwards);
  for (const name of ["layer", "kind", "unit", "place"]) chosen[name] = shown?.[name] ?? chosen[name];
  page.paint.value = ["sure", "said", "unit"].includes(shown?.paint) ? shown.paint : "sure";
  const loaded = await attempt(async () => models.show(await loadModels(), shown?.model));
  if (loaded && shown) read();
}

function listen() {
  page.request.addEventListener("submit", (event) => {
    event.preventDefault();
    chosen.place = null;
    read();
  });
  page.share.addEventListener("click", share);
  for (const name of ["text", "max_positions", "max_units", "backwards"]) page[name].addEventListener("input", keep);
  page.paint.addEventListener("change", () => { paint(); keep(); });
  page.layer.addEventListener("change", () => choose({ layer: Number(page.layer.value) }));
  page.kind.addEventListener("change", () => choose({ kind: page.kind.value }));
  page.unit.addEventListener("input", () => choose({ unit: Number(page.unit.value) }));
  page.order.addEventListener("change", () => { order = { by: page.order.value, of: new Map() }; showMap(); });
  page.width.addEventListener("input", () => { showMap(); map.reveal(); });
  page.gates.addEventListener("click", loadGates);
  page.png.addEventListener("click", () => attempt(savePicture));
  page.json.addEventListener("click", () => attempt(async () => save(await found.json(), "json")));
  page.embedding.addEventListener("toggle", showPlane);
}

// Reads the text, and shows what was found.
async function read() {
  const wanted = {
    model: models.reference, input: page.text.value, logprobs: ALTERNATIVES, encoding_format: "base64_float16",
    go_backwards: page.backwards.checked, max_positions: bound(page.max_positions), max_units: bound(page.max_units),
  };
  const { model } = models;
  const { layers = 1, units = 512 } = model ?? {};
  // A token is a character at least.
  const numTokens = Math.min(wanted.input.length, wanted.max_positions ?? Infinity);
  const isLarge = numTokens * layers * Math.min(units, wanted.max_units ?? Infinity) * 6 > MAX_VALUES_AT_ONCE;
  await run("Reading…", async (signal) => {
    const blob = await postForBlob("v1/inspect", isLarge ? { ...wanted, include: ["hidden", "cell"] } : wanted, signal);
    const answer = JSON.parse(await blob.text());
    if (!answer.tokens.length) throw new Failure("There is nothing in this text to look at. Write some, and read it.");
    found = await Inspection.read(answer);
    [asked, reader] = [wanted, model];
    order = { by: "number", of: new Map() };
    page.order.value = "number";
    unitSearch.use(found);
    show();
  });
}

async function loadGates() {
  const { layer } = chosen;
  await run("Reading once more for the gates…", async (signal) => {
    // By the same version, whatever answers by now.
    const wanted = { ...asked, model: found.reference, include: ["gates"], layers: [layer], logprobs: 0 };
    const blob = await postForBlob("v1/inspect", wanted, signal);
    await found.add(JSON.parse(await blob.text()));
    choose({});
  });
}

function run(what, work) {
  return tasks.run(what, work, () => `${found.tokens.length} tokens read.`);
}

function bound(input) {
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

// Chooses a layer, a kind of value, a unit or a token, as far as they exist, and shows what is known of it.
function choose(changes) {
  if (!found) return;
  Object.assign(chosen, changes);
  if (!found.layers.has(chosen.layer)) [chosen.layer] = found.layers.keys();
  const units = found.units(chosen.layer);
  // The nearest of the units that are told.
  chosen.unit = units.reduce((one, other) => (Math.abs(other - chosen.unit) < Math.abs(one - chosen.unit) ? other : one), units[0]);
  const kinds = found.kinds(chosen.layer);
  if (!kinds.includes(chosen.kind)) [chosen.kind] = kinds;
  // At first the token that the model expected least.
  chosen.place ??= placeOfLeast(found.logprobs);
  chosen.place = Math.max(0, Math.min(Number(chosen.place) || 0, found.tokens.length - 1));
  page.layer.value = chosen.layer;
  fill(page.kind, kinds.map((kind) => [kind, KINDS[kind].name]), chosen.kind);
  page["kind-help"].textContent = `${KINDS[chosen.kind].name}: ${KINDS[chosen.kind].says}.`;
  page.unit.max = units.at(-1);
  if (document.activeElement !== page.unit || page.unit.value !== "") page.unit.value = chosen.unit;
  page.gates.hidden = found.hasGates(chosen.layer) || !hasGates();
  text.choose(chosen.place);
  if (Object.keys(changes).join() !== "place") paint();
  showMap();
  if (changes.place !== undefined) map.reveal();
  showTokenDetail(found, chosen, column(), isReadBackwards());
  if (page.embedding.open) plane.choose(found.tokenIds[chosen.place]);
  keep();
}

function hasGates() {
  return ["lstm", "gru"].includes(reader?.cell) && chosen.layer > 0;
}

function matrix() {
  return found.matrix(chosen.layer, chosen.kind);
}

function column() {
  return found.units(chosen.layer).indexOf(chosen.unit);
}

// The row of the chosen token, or the nearest that was told.
function chosenRow() {
  const exact = found.rowOf[chosen.place];
  return exact >= 0 ? exact : found.positions.filter((place) => place < chosen.place).length;
}

function paint() {
  if (!found) return;
  const { tokens, logprobs, alternatives } = found;
  const by = page.paint.value;
  const likeliest = (place) => Object.entries(alternatives[place] ?? {}).sort(([, one], [, other]) => other - one)[0]?.[0];
  const said = by === "said" ? tokens.map((token, place) => likeliest(place) ?? token) : tokens;
  const differs = said.map((token, place) => token !== tokens[place]);
  const warm = palette().css(1, 1.6);
  const colors = by === "unit" ? activation(found, matrix(), column())
    : by === "said" ? differs.map((other) => (other ? warm : "transparent"))
      : tokenProbabilities(logprobs);
  // What is said in a token's place keeps the lines of the text.
  const texts = said.map((token, place) => (differs[place] ? visible(token) + (tokens[place].endsWith("\n") ? "\n" : "") : token));
  text.paint(texts.map((token) => (token.startsWith("bytes:") ? "�" : token)), colors);
  const wrong = differs.filter(Boolean).length;
  page["paint-help"].textContent = {
    sure: "The warmer a token, the less the model expected it. Choose one, by a click or with the arrow keys, to see what it expected instead.",
    said: `In each place the likeliest token after the text so far. Where it is not what stands in the text it is marked: ${wrong} of ${tokens.length}.`,
    unit: `Unit ${chosen.unit} of layer ${chosen.layer}, ${KINDS[chosen.kind].name}, behind each token: warm above zero, cold below.`,
  }[by];
}

// The order of a layer's units from top to bottom: by number, or by how closely they follow what was searched.
function ordered() {
  const key = `${chosen.layer} ${chosen.kind}`;
  if (!order.of.has(key)) {
    const columns = found.units(chosen.layer).map((_, place) => place);
    const wanted = order.by === "likeness" ? unitSearch.wanted : null;
    if (wanted) {
      const likeness = correlations(matrix(), wanted, 0, wanted.length);
      columns.sort((one, other) => likeness[other] - likeness[one]);
    }
    order.of.set(key, columns);
  }
  return order.of.get(key);
}

function showMap() {
  if (!found) return;
  const kinds = found.kinds(chosen.layer).filter((kind) => ["hidden", "cell", "top", "forget", "update", "input", "reset", "output"].includes(kind));
  const courses = kinds.map((kind) => ({ kind, matrix: found.matrix(chosen.layer, kind) }));
  map.show({
    matrix: matrix(), order: ordered(), labels: found.positions.map((place) => found.tokens[place]),
    width: Number(page.width.value), courses, row: chosenRow(), column: column(),
  });
  const { limit, signed } = matrix();
  page.low.textContent = signed ? number(-limit, 2) : "0";
  page.high.textContent = number(limit, 2);
  page.ramp.dataset.signed = signed;
  page.courses.replaceChildren(`Unit ${chosen.unit}: `, ...courses.map(({ kind }, i) => {
    const name = document.createElement("span");
    name.textContent = KINDS[kind].name;
    name.style.setProperty("--series", palette().series[i]);
    return name;
  }));
  tellPointed(null);
}

// Tells the value under the pointer, or that of what is chosen.
function tellPointed(under) {
  if (!found) return;
  const at = under?.inside ? under : { row: chosenRow(), column: column() };
  const place = found.positions[at.row];
  // What a mouse passes over is not read out.
  page.pointed.ariaLive = under ? "off" : "polite";
  page.pointed.textContent =
    `Unit ${found.units(chosen.layer)[at.column]} behind token ${place}, “${visible(found.tokens[place])}”: ${number(matrix().at(at.row, at.column))}`;
}

function isReadBackwards() {
  return (reader?.direction === "backward") !== Boolean(asked.go_backwards);
}

async function showPlane() {
  if (!page.embedding.open || !found) return;
  await plane.show(found.reference);
  await plane.choose(found.tokenIds[chosen.place]);
}

async function savePicture() {
  const title = `${found.reference}, layer ${chosen.layer}, ${KINDS[chosen.kind].name}, ${matrix().columns} units, ${matrix().rows} tokens`;
  const { blob, tokensPerPixel } = await map.picture(title);
  save(blob, "png");
  if (tokensPerPixel > 1) {
    page.status.textContent = `The map is too wide for a picture with a pixel for each token: each pixel has the mean of ${tokensPerPixel} tokens.`;
  }
}

// Hands a file to the visitor.
function save(blob, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${found.reference.replace(":", "-")}-layer${chosen.layer}-${chosen.kind}.${ending}`;
  link.click();
  // Some browsers fetch it only after this.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// Notes in the address what is shown.
function keep() {
  note({
    model: models.reference, text: page.text.value, go_backwards: page.backwards.checked || undefined,
    max_positions: page.max_positions.value || undefined, max_units: page.max_units.value || undefined,
    paint: page.paint.value, ...chosen,
  });
}

async function share() {
  page.status.textContent = await copyAddress();
}

function retheme() {
  plane.draw();
  if (found) choose({});
}

attempt(start);
