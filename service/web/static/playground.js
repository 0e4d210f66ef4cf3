// The playground: a prompt, and one or two columns of generated text with continuations and branches.

import { attempt } from "./attempt.js";
import { showCode } from "./code.js";
import { Column } from "./column.js";
import { showModelCard } from "./components/model_card.js";
import { find, findAll } from "./dom.js";
import { fromHash, note, noted } from "./link.js";
import { Opening } from "./opening.js";
import { Shell } from "./shell.js";
import { markUnknown } from "./unknown_characters.js";

const [prompt, label, compare, list, goOn] = findAll(["prompt", "prompt-label", "compare", "columns", "continue"]);
const [help] = find("prompt-help").childNodes;
// Of the second column, to show the effect of temperature beside the default.
const OTHER_TEMPERATURE = 1;

let models = [];
let columns = [];
const opening = new Opening();
const shell = new Shell({
  submit: () => columns.length && run((signal) => allSettled(columns.map((column) => column.generate(prompt.value, signal)))),
  models: (served) => {
    models = served;
    columns.forEach((column) => column.showModels(models));
  },
});

function start() {
  compare.addEventListener("change", () => showColumns(compare.checked ? 2 : 1));
  prompt.addEventListener("input", keep);
  goOn.addEventListener("click", () => run((signal) => allSettled(columns.map((column) => column.continue(signal)))));
  list.addEventListener("change", ({ target }) => /^(model|version)-/.test(/** @type {Element} */ (target).id) && opening.end());
  // On a phone, compared texts are side by side.
  const inSight = () => columns[Math.round((columns.length * list.scrollLeft) / list.scrollWidth)];
  find("settings").addEventListener("click", () => inSight().showSettings());
  find("code").addEventListener("click", () => {
    showCode(inSight().request(prompt.value), new URL(".", location.href).href.replace(/\/$/, ""));
    find("code-help").hidden = inSight().isOneRequest;
    find("request-code").showModal();
  });
  const shown = fromHash(location.hash || noted(), ({ columns }) => Array.isArray(columns));
  prompt.value = shown?.prompt ?? "";
  compare.checked = shown?.columns.length === 2;
  return open(shown, prompt.value);
}

// Loads the models, and shows the text of a link or a first one; what was typed meanwhile stays.
async function open(shown, given) {
  if (!(await shell.loadModels(undefined, () => open(shown, given)))) return;
  findAll(["compare", "code", "settings"]).forEach((each) => { each.disabled = false; });
  const isFirst = !shown && !prompt.value && models.length > 0;
  // The demo continues a play with a speech; other models generate a text from its beginning.
  if (isFirst && models.some((model) => model.corpus === "shakespeare")) prompt.value = "HAMLET.\n";
  showColumns(compare.checked ? 2 : 1, shown?.columns);
  const recipes = (shown?.columns ?? []).map(({ recipe }) => (isRecipe(recipe) ? recipe : null));
  if (recipes.some(Boolean)) {
    await run((signal) => allSettled(columns.map((column, i) => recipes[i] && column.replay(given, recipes[i], signal))));
  } else if (isFirst) {
    await opening.show(columns[0], prompt, run);
  }
}

function showColumns(count, given = []) {
  while (columns.length > count) columns.pop().remove();
  while (columns.length < count) {
    const values = given[columns.length] ?? (columns[0] ? { ...columns[0].values, temperature: OTHER_TEMPERATURE } : {});
    const column = new Column(columns.length, models, values, { changed: keep, branch, idle: (work) => shell.isRunning || work() });
    columns.push(column);
    list.append(column.element);
  }
  list.dataset.count = count;
  keep();
}

// Keeps what is shown in the address, and labels the prompt by the model's direction.
function keep() {
  if (!columns.length) return;
  // Without models, the address keeps its state for the next attempt.
  if (models.length) note({ prompt: prompt.value, columns: columns.map((column) => column.linked(prompt.value)) });
  const isBackward = columns.some((column) => column.direction === "backward");
  columns.forEach((column) => column.showTitle());
  showModelCard(columns[0].model);
  markUnknown(columns[0].model, columns[0].values.model);
  label.textContent = isBackward ? "Suffix" : "Prompt";
  help.textContent = `The model ${isBackward ? "generates the text before this" : "continues this"}. `;
}

// Continues after a token: another one in its position, or the same.
async function branch(column, position, token) {
  await run((signal) => column.branch(position, token, signal));
}

function run(work) {
  opening.end();
  return shell.run("Generating…", async (signal) => {
    // The request of a column that is removed would continue unseen.
    compare.disabled = true;
    try {
      await work(signal);
    } finally {
      compare.disabled = false;
      goOn.hidden = !columns.every((column) => column.canContinue);
      keep();
    }
  }, () => "Done.");
}

function isRecipe(recipe) {
  return Array.isArray(recipe) && recipe.length > 0 && recipe.every((step) => step && typeof step === "object");
}

// Waits until all have ended, so that none continues unseen after another one failed; throws the first failure, that of
// a stop only without others.
async function allSettled(promises) {
  const reasons = (await Promise.allSettled(promises)).flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
  if (reasons.length) throw reasons.find(({ name }) => name !== "AbortError") ?? reasons[0];
}

attempt(start);
