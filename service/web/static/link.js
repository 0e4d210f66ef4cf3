// What a page shows, in its address, so that it can be shared; and back. Nothing of it goes to the server.

// An address that is longer cannot be pasted everywhere, and browsers refuse one of two megabytes.
const MAX_LENGTH = 100_000;
// Browsers take so many changes of the address a second, and no more.
const PAUSE_MS = 150;

let waiting = null;
let timer = 0;

export function toHash(shown) {
  return `#${encodeURIComponent(JSON.stringify(shown))}`;
}

// Notes in the address of this page what it shows, in a moment.
export function note(shown) {
  waiting = toHash(shown);
  clearTimeout(timer);
  timer = setTimeout(write, PAUSE_MS);
}

// Copies the address of this page, and returns what is to be said of it.
export async function copyAddress() {
  write();
  if (!location.hash) return "This text is too long for a link.";
  const copied = await navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  return `The address of this page has all of it: text, model, settings. ${copied ? "It was copied." : "Copy it from there."}`;
}

function write() {
  clearTimeout(timer);
  if (waiting === null) return;
  history.replaceState(null, "", waiting.length <= MAX_LENGTH ? waiting : location.pathname);
  waiting = null;
}

// Returns null where the address says nothing, or nothing that `fits`.
export function fromHash(hash, fits) {
  try {
    const shown = JSON.parse(decodeURIComponent(hash.slice(1)));
    return shown && typeof shown === "object" && fits(shown) ? shown : null;
  } catch {
    return null;
  }
}
