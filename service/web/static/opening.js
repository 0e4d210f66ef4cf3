// The first seconds of the page: a scene types itself in the colors of a unit that tracks a feature without being taught.

import { showLegend } from "./components/legend.js";
import { themed } from "./colors.js";
import { find, findAll } from "./dom.js";
import { Inspection } from "./inspection.js";
import { number } from "./format.js";
import { toHash } from "./link.js";
import { openingPrompt } from "./sample.js";

const [element, caption, legend, goOn, why] = findAll(["opening", "opening-text", "opening-legend", "opening-continue", "opening-why"]);
const NUM_TOKENS = 320;
const TYPED_S = 6;
// A scene of a model of plays begins with a stage direction, for the unit that follows these.
const SCENE = "ACT II, SCENE I. A garden behind the palace.\n\n[Enter ";
const TRACKED = {
  brackets: "whether a bracket is open", quotes: "whether quotation marks are open", line: "the position in the line",
  word: "the position in the word", upper: "words in capitals",
};

export class Opening {
  #typing = new AbortController();
  #column = null;

  // Writes a scene into a column, colors it by the model's first discovery and explains that; does nothing without
  // discoveries. `run` runs work that gets an AbortSignal.
  async show(column, prompt, run) {
    const { model } = column;
    const discovery = model?.discoveries?.[0];
    if (!discovery || model.direction === "backward") return;
    const ofPlays = model.corpus === "shakespeare";
    let colors = null;
    this.#column = column;
    column.hideText();
    await run(async (signal) => {
      this.#typing = new AbortController();
      const [typed, scene] = [prompt.value, ofPlays ? SCENE : await openingPrompt(model)];
      if (prompt.value === typed) prompt.value = scene;
      await column.generate(scene, signal, { max_tokens: NUM_TOKENS });
      colors = await this.#explain(discovery, model, column.whole, ofPlays, signal);
    });
    if (this.#typing.signal.aborted) colors = null;
    const seconds = matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : TYPED_S;
    const typed = colors && column.type(colors, seconds, this.#typing.signal);
    element.hidden = !colors;
    await typed;
    column.showText();
  }

  // Ends it: shows the whole text in the colors of surprise.
  end() {
    this.#typing.abort();
    this.#column?.unpaint();
    element.hidden = true;
  }

  // Explains what the unit tracks, and returns its color at each token.
  async #explain({ layer, kind, unit, feature }, { units }, { model, text }, ofPlays, signal) {
    const found = await Inspection.of({ model, input: text, layers: [layer], include: [kind], logprobs: 0 }, signal);
    const [matrix, column] = [found.matrix(layer, kind), found.units(layer).indexOf(unit)];
    const most = matrix.strong(column);
    const tracked = ofPlays && feature === "brackets" ? "stage directions" : TRACKED[feature];
    caption.textContent = `The model has just written this. The color is one of its ${units} units, number ${unit}: it tracks ${tracked}, and nobody taught it that.`;
    showLegend(legend, number(-most, 1), number(most, 1), true);
    why.href = `inspector${toHash({ model, text, layer, kind, unit, color: "unit" })}`;
    goOn.onclick = () => {
      find("continue").focus(); // this button disappears
      find("continue").click();
    };
    return matrix.column(column).map((value) => themed(value, most));
  }
}
