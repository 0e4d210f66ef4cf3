// The text that the pages share within a browser tab, its labels, and the model that wrote or read it.

const KEY = "sostenuto-text";

export function keepText({ model, text, labels }) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ model, text, labels }));
  } catch {
    sessionStorage.removeItem(KEY); // too long for the browser's limit
  }
}

// Returns `model`, `text` and, if it has any, `labels`; null if there is none yet.
export function currentText() {
  return JSON.parse(sessionStorage.getItem(KEY));
}
