// The text that the pages share within a tab of the browser, and the model that wrote or read it.

const KEY = "sostenuto-text";

export function keepText(model, text) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ model, text }));
  } catch {
    sessionStorage.removeItem(KEY); // too long for the browser's limit
  }
}

// Returns `model` and `text`; null if there is none yet.
export function currentText() {
  return JSON.parse(sessionStorage.getItem(KEY));
}
