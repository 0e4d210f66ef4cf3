// The state of a page in the fragment of its URL, which can be shared and is not sent to the server.

import { copyText } from "./dom.js";

// Longer URLs cannot be pasted everywhere, and browsers refuse those of 2 MB.
const MAX_LENGTH = 100_000;
// Browsers limit URL changes per second.
const PAUSE_MS = 150;

const KEY = `sostenuto-link:${location.pathname}`;

let waiting = null;
let last = null;
let timer = 0;

// The fragment that this page had last in this tab; empty if it had none.
export function noted() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function toHash(shown) {
  return `#${encodeURIComponent(JSON.stringify(shown))}`;
}

// Keeps what this page shows in its URL, after a pause, and for when the tab returns to it.
export function note(shown) {
  waiting = toHash(shown);
  clearTimeout(timer);
  timer = setTimeout(write, PAUSE_MS);
}

// Copies the URL of this page, and returns a status message.
export async function copyAddress() {
  write();
  if (!location.hash) return last ? "The text is too long for a link." : "There is nothing to link to yet.";
  return `${(await copyText(location.href)) ? "Link copied" : "Copy the link from the address bar"}. It contains the text, the model and the settings.`;
}

function write() {
  clearTimeout(timer);
  if (waiting === null) return;
  const isShort = waiting.length <= MAX_LENGTH;
  history.replaceState(null, "", isShort ? waiting : location.pathname);
  try {
    sessionStorage.setItem(KEY, waiting);
  } catch {
    sessionStorage.removeItem(KEY); // too long for the browser's limit
  }
  [last, waiting] = [waiting, null];
}

// Shows another state, such as a pasted link's; the skip link's target gives way to the page's state.
addEventListener("hashchange", () => {
  if (fromHash(location.hash, () => true)) {
    location.reload();
  } else if (last !== null) {
    waiting ??= last;
    write();
  }
});

// Returns the state in a fragment; null if there is none, or none that `fits`.
export function fromHash(hash, fits) {
  try {
    const shown = JSON.parse(decodeURIComponent(hash.slice(1)));
    return shown && typeof shown === "object" && fits(shown) ? shown : null;
  } catch {
    return null;
  }
}
