// The page: what is asked for, two columns of text at most, and what can be done with each token.

import { Failure, get, keepKey, post, stream } from "./api.js";
import { Column } from "./column.js";
import { fromHash, toHash } from "./link.js";

const find = (id) => document.getElementById(id);
const page = {
  form: find("request"), prompt: find("prompt"), label: find("prompt-label"), help: find("prompt-help"),
  write: find("write"), stop: find("stop"), share: find("share"), compare: find("compare"),
  columns: find("columns"), notice: find("notice"), status: find("status"), theme: find("theme"),
  key: find("key"), keyValue: find("key-value"),
};

let models = [];
let columns = [];
let running = null;

async function start() {
  showTheme(localStorage.getItem("ostinato-theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  page.theme.addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("ostinato-theme", next);
    showTheme(next);
  });
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
  const shown = fromHash(location.hash);
  page.prompt.value = shown?.prompt ?? "The ";
  await loadModels();
  page.compare.checked = shown?.columns.length === 2;
  showColumns(page.compare.checked ? 2 : 1, shown?.columns);
}

// Asks for the models, and for a key if one is needed.
async function loadModels() {
  await attempt(async () => {
    models = (await get("v1/models")).data;
    if (!models.length) throw new Failure("No model answers yet. Train one, or wait until it is loaded, and reload this page.");
  });
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
  const shown = { prompt: page.prompt.value, columns: columns.map((column) => column.values) };
  history.replaceState(null, "", toHash(shown));
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
  const done = await attempt(() => work(running.signal));
  page.status.textContent = done ? "Done." : running.signal.aborted ? "Stopped." : "";
  running = null;
  page.write.disabled = false;
  page.stop.disabled = true;
}

function stop() {
  running?.abort();
}

// Does something that may fail, and says so; asks for a key where one is missing. Returns whether it was done.
async function attempt(work) {
  page.notice.hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (error.status === 401 && (await askForKey())) return attempt(work);
    if (!(error instanceof Failure)) throw error;
    page.notice.textContent = error.message;
    page.notice.hidden = false;
    if (error.code === "model_not_found") await reloadModels();
    return false;
  }
}

async function reloadModels() {
  models = await get("v1/models").then((answer) => answer.data, () => models);
  columns.forEach((column) => column.showModels(models));
}

function askForKey() {
  page.key.showModal();
  return new Promise((resolve) => {
    page.key.addEventListener("close", () => {
      const given = page.key.returnValue === "use" && page.keyValue.value.trim();
      if (given) keepKey(given);
      page.keyValue.value = "";
      resolve(Boolean(given));
    }, { once: true });
  });
}

async function share() {
  await navigator.clipboard?.writeText(location.href).catch(() => {});
  page.status.textContent = "The address of this page has all of it: prompt, models, settings. It was copied.";
}

function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
  page.theme.setAttribute("aria-pressed", String(theme === "dark"));
}

start();
