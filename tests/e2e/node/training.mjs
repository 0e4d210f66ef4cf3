// OpenAI's client for Node follows a job, uses its model, and starts and cancels a job: `node - BASE_URL JOB SETTINGS`.
// JOB has published `sdk`. SETTINGS are JSON, of a job that does not end by itself, and CORPUS in the environment its text.
import assert from "node:assert/strict";

import OpenAI, { toFile } from "openai";

const [baseURL, trained, settings] = process.argv.slice(2);
const text = process.env.CORPUS;
const PATIENCE_MS = 240_000;
let requests = 0;
const counted = (...request) => {
  requests += 1;
  return fetch(...request);
};
const client = new OpenAI({ baseURL, apiKey: "none", fetch: counted });
const { files, fineTuning, models, completions } = client;
const { jobs } = fineTuning;

async function all(page) {
  const found = [];
  for await (const each of page) found.push(each);
  return found;
}

async function until(condition) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    assert(Date.now() < end, "the condition did not hold in time");
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

const whose = (status) => async (id) => {
  const job = await jobs.retrieve(id);
  return job.status === status ? job : undefined;
};

async function uploads() {
  const file = await files.create({ file: await toFile(Buffer.from(text), "book.txt"), purpose: "fine-tune" });
  assert.deepEqual([file.object, file.filename, file.bytes], ["file", "book.txt", Buffer.byteLength(text)]);
  assert.equal((await files.waitForProcessing(file.id)).status, "processed");
  const other = await files.create({ file: new File(["Another text.\n"], "other.txt"), purpose: "fine-tune" });
  const listed = await all(files.list({ limit: 1, order: "asc", purpose: "fine-tune" }));
  const ours = listed.map(({ id }) => id).filter((id) => id === file.id || id === other.id);
  assert.equal(new Set(listed.map(({ id }) => id)).size, listed.length);
  assert.equal(ours.length, 2);
  assert.equal(await (await files.content(file.id)).text(), text);
  return [file, other];
}

// Opens a stream of the events of a job, to its end.
const eventsOf = (id) => client.get(`/fine_tuning/jobs/${id}/events`, { query: { stream: true }, stream: true });

async function follows(id) {
  const streamed = await all(await eventsOf(id));
  const done = await jobs.retrieve(id);
  assert.deepEqual([done.status, done.error, done.fine_tuned_model], ["succeeded", null, "sdk"]);
  assert(done.finished_at >= done.created_at && done.trained_tokens > 0);
  const pages = await all(jobs.listEvents(id, { limit: 3 }));
  assert.deepEqual(pages.reverse(), streamed);
  assert.deepEqual([streamed[0].message, streamed.at(-1).message], ["the job is queued", "published sdk:1"]);
  assert(streamed.some(({ type, data }) => type === "metrics" && data.validation_loss > 0));
  const [checkpoint, ...rest] = await all(jobs.checkpoints.list(id, { limit: 1 }));
  assert.deepEqual([checkpoint.fine_tuned_model_checkpoint, rest], ["sdk:1", []]);
}

async function generates(model) {
  assert.equal((await models.retrieve(model)).id, model);
  assert((await all(models.list())).some(({ id }) => id === model));
  const fields = { model, prompt: "It was", max_tokens: 8, seed: 1 };
  const whole = (await completions.create(fields)).choices[0].text;
  assert.equal(whole.length, 8);
  let streamed = "";
  for await (const chunk of await completions.create({ ...fields, stream: true })) streamed += chunk.choices[0].text;
  assert.equal(streamed, whole);
}

async function pausesAndCancels(file) {
  const started = await jobs.create({
    model: "characters-3-minutes",
    training_file: file.id,
    suffix: "javascript",
    seed: 5,
    metadata: { by: "node" },
    method: { type: "supervised", supervised: { hyperparameters: { batch_size: 4 } } },
    settings: JSON.parse(settings),
  });
  const { id } = started;
  assert.deepEqual([started.status, started.seed, started.metadata], ["queued", 5, { by: "node" }]);
  assert.equal(started.method.supervised.hyperparameters.batch_size, 4);
  assert.deepEqual((await all(jobs.list({ metadata: { by: "node" } }))).map((each) => each.id), [id]);
  assert.deepEqual(await all(jobs.list({ metadata: { by: "python" } })), []);
  const streaming = all(await eventsOf(id));
  const before = requests;
  const refusal = await files.delete(file.id).catch((error) => error);
  assert(refusal instanceof OpenAI.ConflictError);
  assert.deepEqual([refusal.code, refusal.param, requests], ["conflict", "file_id", before + 1]); // not retried
  await jobs.pause(id);
  await until(() => whose("paused")(id));
  await jobs.resume(id);
  await jobs.cancel(id);
  const job = await until(() => whose("cancelled")(id));
  assert.equal(job.fine_tuned_model, null);
  const streamed = await streaming;
  assert.equal(streamed[0].message, "the job is queued");
  assert.deepEqual((await all(jobs.listEvents(id, { limit: 3 }))).reverse(), streamed);
  await assert.rejects(jobs.resume(id), OpenAI.ConflictError);
  assert.deepEqual((await all(jobs.list({ limit: 1 }))).map((each) => each.id).slice(0, 1), [id]);
}

async function refuses(file) {
  const invalid = jobs.create({ model: "characters-3-minutes", training_file: file.id, settings: { units: 0 } });
  await assert.rejects(invalid, { status: 400, param: "settings", type: "invalid_request_error" });
  await assert.rejects(invalid, OpenAI.BadRequestError);
  const unknown = jobs.create({ model: "no-such-model", training_file: file.id });
  await assert.rejects(unknown, { status: 404, code: "model_not_found", requestID: /^req-/ });
  await assert.rejects(jobs.retrieve("ftjob-unknown"), OpenAI.NotFoundError);
}

const [file, other] = await uploads();
await follows(trained);
await generates("sdk");
await refuses(file);
await pausesAndCancels(file);
for (const each of [file, other]) {
  assert.equal((await files.delete(each.id)).deleted, true);
  await assert.rejects(files.retrieve(each.id), OpenAI.NotFoundError);
}
assert.deepEqual(await models.delete("sdk"), { id: "sdk", object: "model", deleted: true });
