// One unit held at a value while the model continues: the texts with and without that.

import { post } from "./api.js";
import { findAll } from "./dom.js";
import { number, rangeOf } from "./format.js";

const [panel, form, help, value, shown, results, free, held, heldTitle] =
  findAll(["intervention", "hold", "hold-help", "hold-value", "hold-shown", "hold-results", "free", "held", "held-title"]);

const TOKENS = 240;
const MAX_PROMPT = 2000;
// So that the difference is due to the unit, not to chance.
const SAMPLING = { max_tokens: TOKENS, temperature: 0.5, seed: 1 };

export class Intervention {
  #found = null;
  #chosen = null;
  #isBackward = false;
  #labels = {};

  // `run` runs work with a label and a function that returns the final status.
  constructor(run) {
    value.addEventListener("input", () => this.#showValue());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      run("Writing with the unit held…", (signal) => this.#write(signal));
    });
  }

  // Offers to hold the selected unit from the selected token on, except gates and units of sliding-window models.
  offer(found, { layer, kind, unit, position }, column, isBackward, labels) {
    panel.hidden = layer === 0 || !["hidden", "cell"].includes(kind);
    if (panel.hidden) return;
    const isSame = this.#isOffered(found, { layer, kind, unit });
    [this.#found, this.#chosen, this.#isBackward, this.#labels] = [found, { layer, kind, unit, position }, isBackward, labels];
    help.textContent = `Unit ${unit} of layer ${layer} gets the same ${kind} state before each token; the model continues from the selected token.`;
    if (isSame) return;
    results.hidden = true;
    // Up to twice the largest value in the text, initially the end further from the value at the token.
    const matrix = found.matrix(layer, kind);
    const values = matrix.column(column);
    const [least, most] = rangeOf(values);
    const limit = Math.min(100, 2 * matrix.most(column));
    const at = values[Math.max(0, found.rowOf[position])];
    Object.assign(value, { min: -limit, max: limit, step: limit / 100 });
    value.value = at - least > most - at ? least : most;
    this.#showValue();
  }

  #isOffered(found, unit) {
    return this.#found === found && ["layer", "kind", "unit"].every((name) => this.#chosen[name] === unit[name]);
  }

  #showValue() {
    shown.textContent = number(Number(value.value), 2);
  }

  async #write(signal) {
    const [found, chosen] = [this.#found, this.#chosen];
    const { layer, kind, unit, position } = chosen;
    const { reference: model, tokenIds } = found;
    const set = Number(value.value);
    const given = this.#isBackward
      ? { suffix: tokenIds.slice(position, position + MAX_PROMPT) }
      : { prompt: tokenIds.slice(Math.max(0, position + 1 - MAX_PROMPT), position + 1) };
    const body = { model, ...given, labels: this.#labels, ...SAMPLING };
    const texts = await Promise.all([{}, { interventions: [{ layer, kind, unit, set }] }].map((more) => post("v1/completions", { ...body, ...more }, signal)));
    if (!this.#isOffered(found, chosen)) return; // another unit has been selected meanwhile
    heldTitle.textContent = `Held at ${number(set, 2)}`;
    [free.textContent, held.textContent] = texts.map(({ choices }) => choices[0].text);
    results.hidden = false;
  }
}
