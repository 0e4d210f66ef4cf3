// Attempts of work that may fail: error notices, and the API key dialog.

import { Failure, hasKey, keepKey } from "./api.js";
import { answer, findAll } from "./dom.js";
import { sentence } from "./format.js";

const [notice, retry, key, keyValue, keyRefused] = findAll(["notice", "retry", "key", "key-value", "key-refused"]);
// Failures after which the same request may succeed: no connection, no key yet, too many requests, a server that is down.
const MAY_PASS = (status) => [0, 401, 429].includes(status) || status >= 500;

// After a temporary failure, a retry is offered; the cause of any other must be fixed first.
addEventListener("input", () => { notice.hidden ||= retry.hidden; }, true);
// The browser says only of a visible field why it is invalid.
addEventListener("invalid", ({ target }) => {
  const field = /** @type {Element} */ (target);
  field.closest("details")?.setAttribute("open", "");
  /** @type {HTMLElement} */ (field.closest("[popover]:not(:popover-open)"))?.showPopover();
}, true);

// Removes the notice of a failure and its retry button.
export function hideFailure() {
  [notice.hidden, retry.hidden] = [true, true];
}

/**
 * Runs `work` and shows a notice if it fails; on a 401, asks for an API key and runs it again. Returns whether it
 * succeeded. `gone` is called when a model is no longer served, `again` by the notice's button.
 * @param {() => unknown} again
 */
export async function attempt(work, gone = () => {}, again = () => attempt(work, gone)) {
  hideFailure();
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name === "AbortError") return false;
    if (error.status === 401 && (await askForKey(hasKey() ? error.message : ""))) return attempt(work, gone, again);
    if (!(error instanceof Failure)) console.error(error);
    notice.textContent = error instanceof Failure
      ? sentence(error.status === 500 ? "The server failed to compute this; its log says why" : error.message)
      : `An error occurred on this page (${error.message}): what it shows may be incomplete. Try again, or reload the page.`;
    notice.hidden = false;
    retry.hidden = !(error instanceof Failure) || !MAY_PASS(error.status);
    retry.onclick = again;
    if (error.code === "model_not_found") await gone();
    return false;
  }
}

// Asks for an API key, and returns whether one was given; `refused` is the reason why the last one was refused, if any.
export async function askForKey(refused) {
  keyRefused.textContent = refused && `The key was refused: ${refused}.`;
  keyRefused.hidden = !refused;
  const given = (await answer(key)) === "use" && keyValue.value.trim();
  if (given) keepKey(given);
  keyValue.value = "";
  return Boolean(given);
}
