// The page: what is asked for, two columns of text at most, and what can be done with each token.

import { post, stream } from "./api.js";
import { Column } from "./column.js";
import { copyAddress, fromHash, note } from "./link.js";
import { loadModels } from "./models.js";
import { attempt, startTheme } from "./shell.js";

const find = (id) => document.getElementById(id);
const page = {
  form: find("request"), prompt: find("prompt"), label: find("prompt-label"), help: find("prompt-help"),
  write: find("write"), stop: find("stop"), share: find("share"), compare: find("compare"),
  columns: find("columns"), status: find("status"),
};

let models = [];
let columns = [];
let running = null;

async function start() {
  startTheme();
  page.form.addEventListener("submit", (event) => {
    event.preventDefault();
    write();
  });
  page.stop.addEventListener("click", stop);
  page.share.addEventListener("click", share);
  page.compare.addEventListener("change", () => showColumns(page.compare.checked ? 2 : 1));
  page.prompt.addEventListener("input", keep);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) page.form.requestSubmit();
    if (event.key === "Escape" && running && !document.querySelector("dialog[open]")) stop();
  });
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
  await during((signal) => Promise.all(columns.map((column) => column.write(page.prompt.value, signal, stream))));
}

// Goes on from a token: another one in its place, or just from behind it.
async function branch(column, place, token) {
  await during((signal) => column.branch(place, token, signal, { post, stream }));
}

async function during(work) {
  if (running) return;
  running = new AbortController();
  page.write.disabled = true;
  page.stop.disabled = false;
  page.status.textContent = "Writing…";
  const done = await attempt(() => work(running.signal), reloadModels);
  page.status.textContent = done ? "Done." : running.signal.aborted ? "Stopped." : "";
  running = null;
  page.write.disabled = false;
  page.stop.disabled = true;
}

function stop() {
  running?.abort();
}

async function reloadModels() {
  models = await loadModels().catch(() => []);
  columns.forEach((column) => column.showModels(models));
}

async function share() {
  page.status.textContent = await copyAddress();
}

start();
