// The page: what is asked for, two columns of text at most, and what can be done with each token.

import { post, stream } from "./api.js";
import { Column } from "./column.js";
import { copyAddress, fromHash, note } from "./link.js";
import { loadModels } from "./models.js";
import { TaskRunner, attempt, startTheme } from "./shell.js";

const find = (id) => document.getElementById(id);
const page = {
  form: find("request"), prompt: find("prompt"), label: find("prompt-label"), help: find("prompt-help"),
  write: find("write"), stop: find("stop"), share: find("share"), compare: find("compare"),
  columns: find("columns"), status: find("status"),
};

let models = [];
let columns = [];
const tasks = new TaskRunner({ form: page.form, submit: page.write, stop: page.stop, status: page.status }, reloadModels);

async function start() {
  startTheme();
  page.form.addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  page.share.addEventListener("click", share);
  page.compare.addEventListener("change", () => showColumns(page.compare.checked ? 2 : 1));
  page.prompt.addEventListener("input", keep);
  const shown = fromHash(location.hash, ({ columns }) => Array.isArray(columns));
  page.prompt.value = shown?.prompt ?? "The ";
  await attempt(async () => { models = await loadModels(); });
  page.compare.checked = shown?.columns.length === 2;
  showColumns(page.compare.checked ? 2 : 1, shown?.columns);
}

function showColumns(count, given = []) {
  while (columns.length > count) columns.pop().remove();
  while (columns.length < count) {
    const values = given[columns.length] ?? columns[0]?.values ?? {};
    const column = new Column(columns.length, models, values, { changed: keep, branch });
    columns.push(column);
    page.columns.append(column.element);
  }
  columns.forEach((column) => column.showTitle(count > 1));
  page.columns.dataset.count = count;
  keep();
}

// Notes in the address what is shown, and says which end of a text the prompt is.
function keep() {
  note({ prompt: page.prompt.value, columns: columns.map((column) => column.values) });
  const backward = columns.some((column) => column.reads === "backward");
  page.label.textContent = backward ? "Ending" : "Prompt";
  page.help.textContent = backward
    ? "The model leads up to this. Ctrl+Enter writes, Escape stops."
    : "The model goes on from here. Ctrl+Enter writes, Escape stops.";
}

async function write() {
  await run((signal) => allEnded(columns.map((column) => column.write(page.prompt.value, signal, stream))));
}

// Goes on from a token: another one in its place, or just from behind it.
async function branch(column, place, token) {
  await run((signal) => column.branch(place, token, signal, { post, stream }));
}

function run(work) {
  return tasks.run("Writing…", work, () => "Done.");
}

// Waits until all have ended, so that none goes on unseen after another one failed; throws the first failure.
async function allEnded(promises) {
  const failed = (await Promise.allSettled(promises)).find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
}

async function reloadModels() {
  models = await loadModels().catch(() => []);
  columns.forEach((column) => column.showModels(models));
}

async function share() {
  page.status.textContent = await copyAddress();
}

attempt(start);
