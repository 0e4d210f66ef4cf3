// Fills the page of the components: each in every state, with values from the least to the greatest.

import { CellDiagram } from "/static/components/cell_diagram.js";
import { Chart } from "/static/components/chart.js";
import { Curves } from "/static/components/curves.js";
import { Heatmap } from "/static/components/heatmap.js";
import { showLegend } from "/static/components/legend.js";
import { showModelCard } from "/static/components/model_card.js";
import { stripButton } from "/static/components/strip.js";
import { showToken } from "/static/components/token_popover.js";
import { SURPRISE_ENDS, TokenView, activation, surprise } from "/static/components/token_view.js";
import { WrittenText } from "/static/components/written_text.js";
import { Matrix } from "/static/inspection.js";
import "/static/theme.js";

const all = (selector) => [...document.querySelectorAll(selector)];
const from = (low, high, count) => Array.from({ length: count }, (_, i) => low + ((high - low) * i) / (count - 1));

showModelCard({ id: "a-model-with-a-rather-long-name", cell: "lstm", layers: 2, units: 512, unit: "character", corpus: "shakespeare", trained_s: 180, validation_loss: 1.4 });

const [plain, signed] = all("#legends .legend");
showLegend(plain, ...SURPRISE_ENDS, false);
showLegend(signed, "−1.0", "1.0", true);

const [cards, strips] = all("#strips > div");
for (const [name, values] of Object.entries({ signed: from(-1, 1, 64), positive: from(0, 1, 64), "all zero": Array(64).fill(0), long: from(-1, 1, 5000) })) {
  for (const list of [cards, strips]) list.append(stripButton(name, "unit 291, hidden, r 0.43", values, 1, () => {}));
}
for (const list of [cards, strips]) [...list.children].forEach((strip, i) => strip.setAttribute("aria-pressed", String(i === 1)));

const tokens = [..."[Enter HAMLET]\n", "æ", "漢", "bytes:\\xe2", "\t", "word ", "another "];
const logprobs = [null, ...from(0, -9, tokens.length - 1)];
const [bySurprise, byUnit] = all("#token-views .output").map((list) => {
  const view = new TokenView(list, () => {});
  view.show(tokens);
  return view;
});
bySurprise.paint(tokens, surprise(logprobs));
bySurprise.choose(3);
const matrix = new Matrix(Float32Array.from(from(-1, 1, tokens.length)), 1, true);
byUnit.paint(tokens, activation({ tokens, rowOf: tokens.map((_, row) => row) }, matrix, 0));
byUnit.mark([2, 6]);

const written = new WrittenText(document.querySelector("#written .output"), () => {});
written.begin("HAMLET.\n", false, tokens.map((text, i) => ({ text, logprob: logprobs[i], alternatives: {}, branched: i === 4 })));
written.elementOf(7).classList.add("parting");
written.elementOf(9).addEventListener("click", () => showToken(
  { text: "E", logprob: Math.log(0.6), alternatives: { E: Math.log(0.6), "\n": Math.log(0.2), " ": Math.log(0.0001), "bytes:\\xe2": -9 } },
  written.elementOf(9), { branch: () => {}, walk: () => {} },
));

const epochs = from(1, 4, 4).map((epoch) => ({ epoch, tokens: epoch * 1e6, loss: 2 / epoch + 1 }));
const [waiting, running] = all("#charts figure").map((figure) => new Chart(figure));
waiting.show({ training: [], epochs: [], best: null });
running.show({ training: from(0.1, 4, 40).map((millions) => ({ tokens: millions * 1e6, loss: 2 / (1 + millions) + 1 })), epochs, best: epochs[3] });

const wave = from(0, 99, 100).map((place) => [place, Math.sin(place / 6)]);
new Curves(document.querySelector("#curves figure")).show({ curves: [{ name: "Forget gate f", points: wave.map(([place, value]) => [place, value ** 2]), least: 0, most: 1 }, { name: "Cell state c", points: wave, least: -1, most: 1 }], length: 100, marks: [20, 60], at: 30, axis: "token", label: "Two curves" });

const step = { hidden: 0.6, cell: 2.4, oldHidden: -0.5, oldCell: -1.5 };
const steps = [{ ...step, forget: 0.99, input: 0.01, candidate: -0.9, output: 1 }, { ...step, update: 0.5, candidate: 0.9 }, step];
all("#cells figure").forEach((figure, i) => new CellDiagram(figure).show(steps[i], 3));

const heat = new Matrix(Float32Array.from(from(-1, 1, 60 * 16)), 16, true);
new Heatmap(document.querySelector("#heat-map .map"), { chosen: () => {}, pointed: () => {} }).show({ matrix: heat, order: from(0, 15, 16), labels: Array(60).fill("a"), width: 10, curves: [{ name: "Hidden state h", matrix: heat }], row: 3, column: 2 });
document.body.dataset.ready = "true";
