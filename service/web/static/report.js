// The page that reports on generated records: the files are read here and sent as lists of records.

import { post } from "./api.js";
import { attempt } from "./attempt.js";
import { find, findAll } from "./dom.js";
import { columnsOf, recordsOf } from "./records.js";
import { readText } from "./text_file.js";

const FILES = ["generated", "training", "held_out"];
const [form, start, stop, status, found, title, summary, page, numbers] = findAll(["ask", "start", "stop", "status", "found", "found-title", "summary", "page", "numbers"]);
let running = null;

async function report(signal) {
  const body = { smiles: find("smiles").checked, html: true };
  if (find("pattern").value) body.pattern = find("pattern").value;
  const files = FILES.flatMap((name) => [...find(name).files].map((file) => ({ name, file })));
  const texts = await Promise.all(files.map(({ file }) => readText(file)));
  const training = files.findIndex(({ name }) => name === "training");
  const columns = columnsOf(texts[training], files[training].file.name);
  if (columns) body.columns = columns;
  files.forEach(({ name, file }, place) => (body[name] = recordsOf(texts[place], file.name, columns, place === training)));
  const { html, ...report } = await post("v1/reports", body, signal);
  summary.textContent = report.summary;
  offer(page, html, "text/html");
  offer(numbers, JSON.stringify(report), "application/json");
  found.hidden = false;
  title.focus();
}

// Makes a link download a text.
function offer(link, text, type) {
  URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([text], { type }));
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  running = new AbortController();
  const { signal } = running;
  stop.hidden = false;
  if (document.activeElement === start) stop.focus();
  [start.disabled, found.hidden, status.textContent] = [true, true, "Comparing …"];
  const isDone = await attempt(() => report(signal));
  start.disabled = false;
  if (document.activeElement === stop) start.focus();
  [stop.hidden, status.textContent] = [true, isDone || !signal.aborted ? "" : "Stopped."];
});

stop.addEventListener("click", () => running?.abort());
