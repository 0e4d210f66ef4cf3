// The search for units that follow something in the text.

import { FEATURES, OWN, SURE, featureOf, search } from "./features.js";
import { fill } from "./models.js";
import { button, number, row } from "./format.js";

const find = (id) => document.getElementById(id);
const [form, feature, help, pattern, patternLabel, units] =
  ["search", "feature", "feature-help", "pattern", "pattern-label", "units"].map(find);

const ALL = { ...FEATURES, sure: SURE, own: OWN };
const CONSTANT = "This is the same at every token of the text: nothing can follow it.";

export class UnitSearch {
  // What was looked for last, at each row of the text's matrices: Float32Array (rows); null: nothing.
  wanted = null;
  #found = null;

  // `on.found` is called when a search has ended; `on.chosen` with layer, kind and unit of the one that is chosen;
  // `attempt` says what went wrong.
  constructor(on, attempt) {
    fill(feature, Object.entries(ALL).map(([name, one]) => [name, one.name.toLowerCase()]), "line");
    feature.addEventListener("change", () => this.#explain());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#found) attempt(() => this.#search(on));
    });
    this.#explain();
  }

  // Looks into another text from now on.
  use(found) {
    this.#found = found;
    this.wanted = null;
    units.hidden = true;
  }

  #explain() {
    help.textContent = `${ALL[feature.value].says}.`;
    patternLabel.hidden = feature.value !== "own";
  }

  // What is to be followed, at each row; null, and why is said, if nothing can follow it.
  #follow() {
    this.#explain();
    try {
      const behind = featureOf(feature.value, this.#found, pattern.value);
      const wanted = Float32Array.from(this.#found.positions, (place) => behind[place]);
      if (wanted.some((value) => value !== wanted[0])) return wanted;
      help.textContent = CONSTANT;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      help.textContent = `${error.message}.`;
    }
    return null;
  }

  async #search(on) {
    this.wanted = this.#follow();
    units.hidden = this.wanted === null;
    if (this.wanted === null) return;
    const best = await search(this.#found, this.wanted);
    units.tBodies[0].replaceChildren(...best.map(({ layer, kind, unit, first, second }) => {
      const what = `${unit}, layer ${layer}, ${kind}`;
      const holds = first * second > 0 && Math.abs(second) >= Math.abs(first) / 2;
      const show = button(what, `Show unit ${what}`, () => on.chosen({ layer, kind, unit }));
      return row([[show], number(first, 2), `${number(second, 2)}${holds ? " · holds" : ""}`]);
    }));
    on.found();
  }
}
