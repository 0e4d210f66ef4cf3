// The training page: a text and a time in, a model out. With the job's id in the URL, a reload follows it.

import { get, hasKey, post, upload } from "./api.js";
import { askForKey, attempt } from "./attempt.js";
import { showModelCard } from "./components/model_card.js";
import { MIN_CHARACTERS } from "./corpus.js";
import { fill, findAll, make, row } from "./dom.js";
import { outlook, passes, presetFor } from "./expectation.js";
import { sentence } from "./format.js";
import { JobView, STATUSES, nameOf } from "./job.js";
import { loadModels } from "./model_choice.js";
import { Source } from "./source.js";

const [form, lead, presets, hint, name, nameHelp, advanced] = findAll(["new", "lead", "presets", "outlook", "name", "name-help", "advanced"]);
const [documents, base, units, seed, start, status, another] = findAll(["documents", "base", "units", "seed", "start", "status", "another"]);
const [notice, jobPart, jobTitle, jobs, jobsList] = findAll(["notice", "job", "job-title", "jobs", "jobs-list"]);
const [unavailable, unavailableTitle, unavailableHelp, unavailableCommand, otherKey] = findAll(["unavailable", "unavailable-title", "unavailable-help", "unavailable-command", "other-key"]);
const DEFAULT_NAME = "my-text";
const MAX_NAME = 40;
const TYPICAL_CHARACTERS = 1_000_000;
const KEYS_ADD = "sostenuto keys add --tenant NAME --role train --role generate --role read";

let models = [];
// Of the file name, for a new model.
let stem = "";
// Of the text; undefined if there is none.
let numCharacters;
// The id of each upload, so that the text of a refused job is not resent.
const fileIds = new WeakMap();
// The jobs that the page has listed or created, and the last request for one, as JSON, until it gets a response.
const knownJobs = new Set();
let unanswered = null;
const source = new Source(showDescription);
const view = new JobView(({ status }) => {
  listJobs();
  if (status === "succeeded") attempt(showModels);
});

function begin() {
  showPresets(source.describe());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  for (const field of [name, base]) field.addEventListener("input", showName);
  presets.addEventListener("change", showUnits);
  base.addEventListener("input", () => showPresets(source.describe()));
  documents.addEventListener("input", () => source.divide(documents.value));
  another.addEventListener("click", () => {
    open(null);
    source.focus();
  });
  otherKey.addEventListener("click", async () => (await askForKey("")) && load());
  jobsList.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(link.dataset.job);
  });
  addEventListener("popstate", () => show(jobInAddress()));
  load();
}

async function load() {
  const isLoaded = await attempt(async () => {
    const list = await explained(newestJobs);
    if (!list) return;
    showJobs(list.data);
    await showModels();
    advanced.open ||= Boolean(base.value);
  }, undefined, load);
  if (isLoaded && unavailable.hidden) await show(jobInAddress());
}

async function showModels() {
  models = await loadModels();
  const from = new URLSearchParams(location.search).get("from") ?? base.value;
  fill(base, [["", "nothing: a new model"], ...models.map(({ id }) => [id, id])], from);
  showPresets(source.describe());
  showName();
}

// Runs a request; if this server or this key does not train, explains what to do and returns null.
async function explained(request) {
  try {
    const result = await request();
    [unavailable.hidden, start.disabled] = [true, false];
    return result;
  } catch (error) {
    const reasons = {
      training_disabled: ["This server does not train", "Start it with its trainer, or train here and publish into its model repository:", "sostenuto serve"],
      missing_role: hasKey()
        ? ["This API key may not train", `${sentence(error.message)} Ask the operator for a key with the role train:`, KEYS_ADD]
        : ["This server does not train without API keys", `${sentence(error.message)} Set SOSTENUTO_KEYS_FILE, and create a key with the role train:`, KEYS_ADD],
    };
    if (!reasons[error.code]) throw error;
    [unavailableTitle.textContent, unavailableHelp.textContent, unavailableCommand.textContent] = reasons[error.code];
    [unavailable.hidden, start.disabled, otherKey.hidden] = [false, true, error.code !== "missing_role" || !hasKey()];
    return null;
  }
}

function jobInAddress() {
  return new URLSearchParams(location.search).get("job");
}

// Goes to a job, or to the form.
function open(id) {
  history.pushState(null, "", id ? `train?job=${encodeURIComponent(id)}` : "train");
  return show(id);
}

async function show(id) {
  [form.hidden, jobPart.hidden] = [Boolean(id), !id];
  if (!id) return view.leave();
  const isFound = await attempt(async () => {
    const isCurrent = () => jobInAddress() === id;
    const job = await get(`v1/fine_tuning/jobs/${encodeURIComponent(id)}`).catch((error) => { if (isCurrent()) throw error; });
    if (!isCurrent()) return; // another one was opened meanwhile
    jobTitle.focus({ preventScroll: true });
    scrollTo(0, 0);
    await view.follow(job);
  }, undefined, () => show(id));
  if (isFound) return;
  view.leave();
  [form.hidden, jobPart.hidden] = [false, true];
}

function newestJobs() {
  return get("v1/fine_tuning/jobs?limit=50");
}

async function listJobs() {
  const list = await newestJobs().catch(() => null);
  if (list) showJobs(list.data);
}

function showJobs(list) {
  jobs.hidden = !list.length;
  for (const { id } of list) knownJobs.add(id);
  jobsList.replaceChildren(...list.map((job) => {
    const link = make("a", { href: `train?job=${encodeURIComponent(job.id)}`, textContent: nameOf(job) });
    link.dataset.job = job.id;
    const badge = make("span", { className: "badge", textContent: STATUSES[job.status] });
    badge.dataset.status = job.status;
    return row([[link], [badge], new Date(job.created_at * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })]);
  }));
}

function showDescription(description, filename) {
  const isRecords = description?.documents === "records";
  if (description) documents.value = description.documents;
  documents.disabled = isRecords;
  documents.querySelector("[value=records]").disabled = !isRecords;
  stem = (filename ?? "").replace(/\.\w+$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.\-_]+|[.\-_]+$/g, "");
  status.textContent = "";
  showPresets(description);
  showName();
}

// The expected results of each preset for this text.
function showPresets(description) {
  numCharacters = description?.numCharacters;
  for (const label of presets.children) {
    const preset = presetFor(label.querySelector("input").value, numCharacters);
    const expected = numCharacters && !base.value ? ` ${passes(preset, numCharacters)}` : "";
    label.querySelector(".help").textContent = `${preset.aim}.${expected}`;
  }
  hint.textContent = `${outlook(numCharacters >= MIN_CHARACTERS ? numCharacters : TYPICAL_CHARACTERS)} Measured on two cores with nothing else running; a busy machine gets through fewer passes in the same time.`;
  showUnits();
}

function showUnits() {
  units.placeholder = base.value ? "as they are" : chosenPreset().units;
  units.disabled = Boolean(base.value);
}

function chosenPreset() {
  return presetFor(form.elements.minutes.value, numCharacters);
}

// By default, a fine-tuned model keeps its name, and a new one is named after its file.
function showName() {
  lead.textContent = base.value
    ? `Continue from ${base.value}: give its text again, or another one.`
    : `${models.length ? "" : "No model is served yet. "}Paste a text, and get a model that writes like it in three minutes.`;
  showModelCard(models.find(({ id }) => id === base.value));
  name.placeholder = (unowned(base.value) || stem).slice(0, MAX_NAME) || DEFAULT_NAME;
  const chosen = modelName();
  const served = models.find(({ id }) => unowned(id) === chosen && (id !== chosen || !hasKey()));
  const naming = hasKey() ? "The server puts the prefix of your tenant before it; the job shows the name that requests use." : `Requests name it: "model": "${chosen}".`;
  nameHelp.textContent = served ? `${served.id} is served: this becomes its next version.` : naming;
  showUnits();
}

function modelName() {
  return name.value.trim() || name.placeholder;
}

// The name that a job gives a model; with API keys, the server prepends the tenant's tag.
function unowned(id) {
  return id.replace(/^ft-[0-9a-f]{8}-/, "");
}

async function submit() {
  if (start.ariaDisabled === "true") return;
  const description = source.describe();
  if (!description || description.numCharacters < MIN_CHARACTERS || description.problem) {
    status.textContent = description ? "The text cannot be used for training yet: see the notes on it." : "Paste a text, or choose a file, first.";
    source.focus();
    return;
  }
  start.ariaDisabled = "true"; // it keeps the focus
  /** @type {any} */
  let job = null;
  await attempt(async () => {
    job = await explained(async () => {
      const content = source.upload(modelName());
      const isResent = !fileIds.has(content);
      return create(await uploaded(content)).catch(async (error) => {
        if (error.status !== 404 || error.param !== "training_file" || isResent) throw error;
        // The server no longer has the file.
        fileIds.delete(content);
        return create(await uploaded(content));
      });
    });
  }, undefined, submit);
  start.ariaDisabled = "false";
  status.textContent = "";
  if (job) await open(job.id);
  // On a phone, the button is far below the message.
  else (unavailable.hidden ? notice : unavailable).scrollIntoView({ block: "center" });
}

// Returns the id of the uploaded text.
async function uploaded(content) {
  if (!fileIds.has(content)) {
    status.textContent = "Uploading…";
    const body = new FormData();
    body.append("purpose", "fine-tune");
    body.append("file", content.blob, content.name);
    fileIds.set(content, (await upload("v1/files", body)).id);
  }
  return fileIds.get(content);
}

async function create(fileId) {
  status.textContent = "Starting…";
  const preset = chosenPreset();
  const settings = { max_minutes: preset.maxMinutes };
  if (documents.value !== "records") settings.documents = documents.value;
  if (units.value && !base.value) settings.units = Number(units.value);
  const request = { model: base.value || preset.recipe, training_file: fileId, suffix: modelName(), seed: Number(seed.value || 0), settings };
  const body = JSON.stringify(request);
  const created = body === unanswered ? await createdFrom(fileId) : undefined;
  unanswered = body;
  try {
    const job = created ?? await post("v1/fine_tuning/jobs", request);
    knownJobs.add(job.id);
    unanswered = null;
    return job;
  } catch (error) {
    if (error.status >= 400 && error.status < 500) unanswered = null;
    throw error;
  }
}

// Returns the job of a request whose response was lost; undefined if the request was.
async function createdFrom(fileId) {
  const { data } = await newestJobs();
  return data.find(({ id, training_file: file }) => file === fileId && !knownJobs.has(id));
}

begin();
