// The search for units that correlate with a feature of the text.

import { button, fill, findAll, row } from "./dom.js";
import { FEATURES, PROBABILITY, REGEXP, featureOf, search } from "./features.js";
import { number } from "./format.js";

const [form, feature, help, pattern, patternLabel, units] =
  findAll(["search", "feature", "feature-help", "pattern", "pattern-label", "units"]);

const ALL = { ...FEATURES, sure: PROBABILITY, own: REGEXP };
const CONSTANT = "This feature is constant over the text: no unit can correlate with it.";

export class UnitSearch {
  // The feature of the last search at each row of the text's matrices: Float32Array (rows); null: no search.
  target = null;
  #found = null;

  // `on.found` is called when a search has ended; `on.chosen` with layer, kind and unit of the selected result.
  constructor(on, attempt) {
    fill(feature, Object.entries(ALL).map(([name, feature]) => [name, feature.name.toLowerCase()]), "line");
    feature.addEventListener("change", () => this.#explain());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#found) attempt(() => this.#search(on));
    });
    this.#explain();
  }

  // Searches another text from now on.
  use(found) {
    this.#found = found;
    this.target = null;
    units.hidden = true;
  }

  #explain() {
    help.textContent = `${ALL[feature.value].help}.`;
    patternLabel.hidden = feature.value !== "own";
  }

  // The feature at each row; null, with the reason in the help text, if no unit can correlate with it.
  #targetOfText() {
    this.#explain();
    try {
      const values = featureOf(feature.value, this.#found, pattern.value);
      const target = Float32Array.from(this.#found.positions, (position) => values[position]);
      if (target.some((value) => value !== target[0])) return target;
      help.textContent = CONSTANT;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      help.textContent = `${error.message}.`;
    }
    return null;
  }

  async #search(on) {
    this.target = this.#targetOfText();
    units.hidden = this.target === null;
    if (this.target === null) return;
    const best = await search(this.#found, this.target);
    units.tBodies[0].replaceChildren(...best.map(({ layer, kind, unit, first, second }) => {
      const label = `${unit}, layer ${layer}, ${kind}`;
      const holds = first * second > 0 && Math.abs(second) >= Math.abs(first) / 2;
      const show = button(label, `Show unit ${label}`, () => on.chosen({ layer, kind, unit }));
      return row([[show], number(first, 2), `${number(second, 2)}${holds ? " · holds" : ""}`]);
    }));
    on.found();
  }
}
