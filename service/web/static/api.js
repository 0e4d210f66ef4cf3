// The HTTP API: responses, event streams, and errors for users.

const KEY = "sostenuto-key";

export class Failure extends Error {
  status;
  code;
  // The invalid field.
  param;

  constructor(message, status, code, param) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

export function keepKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

export const get = (path, signal) => exchange("GET", path, undefined, signal);
export const post = (path, body, signal) => exchange("POST", path, JSON.stringify(body), signal);
export const patch = (path, body) => exchange("PATCH", path, JSON.stringify(body));
export const remove = (path) => exchange("DELETE", path);
// Uploads a form with a file.
export const upload = (path, form, signal) => exchange("POST", path, form, signal);

async function exchange(method, path, body, signal) {
  const response = await send(method, path, body, signal);
  return lost(response.json(), signal);
}

// Yields the objects of a stream. Leaving the loop or aborting closes it, and the server stops.
export async function* stream(path, body, signal) {
  const response = await send("POST", path, JSON.stringify({ ...body, stream: true }), signal);
  yield* events(response, signal, "The connection was lost before the text was complete. Generate it again.");
}

// Yields the objects of a stream of events at a URL.
export async function* follow(path, signal) {
  yield* events(await send("GET", path, undefined, signal), signal, "The connection to the server was lost.");
}

async function* events(response, signal, cut) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await lost(reader.read(), signal);
      if (done) throw new Failure(cut, 0, "cut");
      const found = (rest + value).split("\n\n");
      rest = found.pop();
      for (const event of found) {
        if (event.startsWith(":")) continue; // a comment, which keeps the connection open
        const data = event.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Failure(chunk.error.message, 0, chunk.error.code, chunk.error.param);
        yield chunk;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function send(method, path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  // The browser sets the content type of a form, with its boundary.
  const headers = { ...(typeof body === "string" && { "Content-Type": "application/json" }), ...(key && { Authorization: `Bearer ${key}` }) };
  const response = await lost(fetch(path, { method, body, signal, headers }), signal);
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  const message = error?.message ?? `The server returned ${`${response.status} ${response.statusText}`.trim()}.`;
  throw new Failure(message, response.status, error?.code, error?.param);
}

async function lost(promise, signal) {
  try {
    return await promise;
  } catch (error) {
    if (signal?.aborted) throw error;
    if (error instanceof SyntaxError) throw new Failure("The response is not JSON, so it is not from this server. Check the URL.", 0, "foreign");
    throw new Failure("The server cannot be reached. Check that it is running, and try again.", 0, "lost");
  }
}
