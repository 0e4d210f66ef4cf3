// The playground: a prompt, one or two columns of generated text, and branching at each token.

import { post, stream } from "./api.js";
import { attempt } from "./attempt.js";
import { Column } from "./column.js";
import { findAll } from "./dom.js";
import { fromHash, note } from "./link.js";
import { Shell } from "./shell.js";

const [prompt, label, help, compare, list] = findAll(["prompt", "prompt-label", "prompt-help", "compare", "columns"]);

let models = [];
let columns = [];
const shell = new Shell({
  submit: () => run((signal) => allSettled(columns.map((column) => column.generate(prompt.value, signal, stream)))),
  models: (served) => {
    models = served;
    columns.forEach((column) => column.showModels(models));
  },
});

async function start() {
  compare.addEventListener("change", () => showColumns(compare.checked ? 2 : 1));
  prompt.addEventListener("input", keep);
  const shown = fromHash(location.hash, ({ columns }) => Array.isArray(columns));
  await shell.loadModels();
  // The demo continues a play where somebody speaks; any model generates a text from its beginning.
  prompt.value = shown?.prompt ?? (models.some((model) => model.id === "demo") ? "HAMLET.\n" : "");
  compare.checked = shown?.columns.length === 2;
  showColumns(compare.checked ? 2 : 1, shown?.columns);
}

function showColumns(count, given = []) {
  while (columns.length > count) columns.pop().remove();
  while (columns.length < count) {
    const values = given[columns.length] ?? columns[0]?.values ?? {};
    const column = new Column(columns.length, models, values, { changed: keep, branch });
    columns.push(column);
    list.append(column.element);
  }
  columns.forEach((column) => column.showTitle(count > 1));
  list.dataset.count = count;
  keep();
}

// Keeps in the address what is shown, and labels the prompt by the direction of the model.
function keep() {
  // Without models, the address keeps what it has for the next attempt.
  if (models.length) note({ prompt: prompt.value, columns: columns.map((column) => column.values) });
  const isBackward = columns.some((column) => column.direction === "backward");
  label.textContent = isBackward ? "Suffix" : "Prompt";
  help.textContent = `The model ${isBackward ? "generates the text before this" : "continues this"}. Ctrl+Enter generates, Escape stops.`;
}

// Continues after a token: another one in its position, or the same.
async function branch(column, position, token) {
  await run((signal) => column.branch(position, token, signal, { post, stream }));
}

function run(work) {
  return shell.run("Generating…", async (signal) => {
    // The request of a column that is removed would continue unseen.
    compare.disabled = true;
    try {
      await work(signal);
    } finally {
      compare.disabled = false;
    }
  }, () => "Done.");
}

// Waits until all have ended, so that none continues unseen after another one failed; throws the first failure, and
// that it was stopped only if nothing else failed.
async function allSettled(promises) {
  const reasons = (await Promise.allSettled(promises)).filter(({ status }) => status === "rejected").map(({ reason }) => reason);
  if (reasons.length) throw reasons.find(({ name }) => name !== "AbortError") ?? reasons[0];
}

attempt(start);
