// Units that follow a feature of the text: the discovered ones, and the search for others, each as a strip.

import { attempt } from "./attempt.js";
import { fill, findAll } from "./dom.js";
import { FEATURES, MIN_TOKENS, PROBABILITY, REGEXP, discover, held, search, targetOf, variesInHalves } from "./features.js";
import { count, number } from "./format.js";
import { KINDS } from "./inspection.js";
import { stripButton } from "./components/strip.js";

const [form, feature, help, pattern, patternLabel, list, title, cards, cardsTitle, cardsHelp] =
  findAll(["search", "feature", "feature-help", "pattern", "pattern-label", "units", "units-title", "discoveries", "discoveries-title", "discoveries-help"]);

const ALL = { ...FEATURES, sure: PROBABILITY, own: REGEXP };
const CONSTANT = "This feature is constant over the text: no unit can correlate with it.";
const SHAKESPEARE = "Speech or stage direction";

export class UnitSearch {
  // The feature of the last search at each row of the text's matrices: Float32Array (rows); null: no search.
  target = null;
  #on;
  #found = null;
  #strips = [];

  // `on.found` is called when a search has ended; `on.chosen` with layer, kind and unit of a strip that is pressed.
  constructor(on) {
    this.#on = on;
    feature.addEventListener("change", () => {
      this.#explain();
      if (feature.value !== "own") attempt(() => this.#search());
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#found) attempt(() => this.#search());
    });
  }

  // Searches another text of a model from now on, and offers the features that vary in it. Returns the unit of the first
  // discovery: one published with the version, or else of a search now; undefined if there is none.
  async use(found, model) {
    this.#found = found;
    this.target = null;
    this.#strips = [];
    const targets = new Map(Object.keys(FEATURES).map((name) => [name, targetOf(name, found)]));
    const offered = Object.entries(ALL).filter(([name]) => !targets.has(name) || (targets.get(name) && variesInHalves(targets.get(name))));
    const published = (found.reference === `${model?.id}:${model?.version}` ? model.discoveries ?? [] : [])
      .filter(({ feature, layer, kind }) => found.matrix(layer, kind) && targets.get(feature))
      .map(({ ranked, validated, ...each }) => ({ ...each, first: ranked, second: validated }));
    const discoveries = published.length ? published : await discover(found);
    if (this.#found !== found) return undefined;
    this.#showDiscoveries(discoveries, published.length > 0, model);
    const first = [...discoveries.map((each) => each.feature), "line", "sure"].find((name) => offered.some(([each]) => each === name));
    fill(feature, offered.map(([name, { name: label }]) => [name, label.toLowerCase()]), first);
    this.#explain();
    await this.#search();
    return discoveries[0];
  }

  // Marks the strips of the selected unit, and draws all in the theme's colors.
  mark({ layer, kind, unit }) {
    for (const { element, of } of this.#strips) {
      element.setAttribute("aria-pressed", String(of.layer === layer && of.kind === kind && of.unit === unit));
      element.draw();
    }
  }

  #showDiscoveries(discoveries, isPublished, model) {
    cardsTitle.hidden = cards.hidden = cardsHelp.hidden = discoveries.length === 0;
    cardsHelp.textContent = `Nobody taught these units: each is one number of ${this.#numUnits()} in the model's memory. r: correlation on ${isPublished ? "text that the model never saw" : "the second half of this text"}.`;
    cards.replaceChildren(...discoveries.map((each) => {
      const name = each.feature === "brackets" && model?.corpus === "shakespeare" ? SHAKESPEARE : FEATURES[each.feature].title;
      return this.#strip(each, name, `unit ${each.unit}, ${each.kind}, r ${number(each.second, 2)}`, () => {
        this.#on.chosen(each);
        if (![...feature.options].some(({ value }) => value === each.feature)) return;
        feature.value = each.feature;
        this.#search();
      });
    }));
  }

  #numUnits() {
    return count([...this.#found.layers.values()].reduce((sum, { units, matrices }) => sum + units.length * ["hidden", "cell", "top"].filter((kind) => matrices.has(kind)).length, 0));
  }

  // A button with the strip of a unit.
  #strip(of, name, detail, pressed) {
    const matrix = this.#found.matrix(of.layer, of.kind);
    const column = this.#found.units(of.layer).indexOf(of.unit);
    // Units outside the response have no strip.
    const values = column < 0 ? [] : matrix.column(column);
    const element = stripButton(name, detail, values, matrix.strong(Math.max(0, column)), pressed);
    this.#strips.push({ element, of });
    return element;
  }

  #explain() {
    help.textContent = `${ALL[feature.value].help}.`;
    patternLabel.hidden = feature.value !== "own";
  }

  // The feature at each row; null, with the reason in the help text, if no unit can correlate with it.
  #targetOfText() {
    this.#explain();
    try {
      const target = targetOf(feature.value, this.#found, pattern.value);
      if (!target) help.textContent = CONSTANT;
      return target;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      help.textContent = `${error.message}.`;
      return null;
    }
  }

  async #search() {
    this.target = this.#targetOfText();
    title.hidden = list.hidden = this.target === null;
    if (this.target === null) return;
    const { target } = this;
    const best = await search(this.#found, target);
    // Another search has begun meanwhile.
    if (this.target !== target) return;
    this.#strips = this.#strips.filter(({ element }) => cards.contains(element));
    const isShort = target.length < MIN_TOKENS;
    title.textContent = `Units that follow “${ALL[feature.value].name.toLowerCase()}”: r in the first half of the text, and in the second${isShort ? ". The text is too short to tell them from chance" : ""}`;
    list.replaceChildren(...best.map((each) => {
      const { layer, kind, unit, first, second } = each;
      const holds = !isShort && held(each) >= Math.abs(first) / 2 ? " · holds" : "";
      const strip = this.#strip(each, `${unit}, layer ${layer}, ${kind}`, `${number(first, 2)}, ${number(second, 2)}${holds}`, () => this.#on.chosen({ layer, kind, unit }));
      strip.title = `${KINDS[kind].name}: correlation ${number(first, 2)} in the first half of the text, ${number(second, 2)} in the second`;
      return strip;
    }));
    this.#on.found();
  }
}
