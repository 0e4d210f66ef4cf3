// Curves as small multiples: stacked over the same tokens, each with its own axis.

import { svg } from "../dom.js";
import { number } from "../format.js";

const MARGIN = { left: 38, right: 8, bottom: 34 };
const [TITLE, HEIGHT, GAP] = [18, 44, 10];
const STEPS = [1, 2, 5, 10, 20, 50, 100];

export class Curves {
  #figure;
  #shown = null;

  // `chosen` is called with the pressed place along the axis.
  constructor(figure, chosen = (_place) => {}) {
    this.#figure = figure;
    new ResizeObserver(() => this.#draw()).observe(figure);
    figure.addEventListener("click", (event) => {
      const { left } = figure.getBoundingClientRect();
      const place = Math.round(((event.clientX - left - MARGIN.left) / this.#width) * (this.#shown.length - 1));
      chosen(Math.max(0, Math.min(place, this.#shown.length - 1)));
    });
  }

  // Shows curves, each with `name`, `points` [place, value] and the ends of its axis, `least` and `most`, over places 0 to
  // `length`. Dashed lines mark `marks`, a solid one `at`; `axis` names the places, `label` describes all.
  show(shown) {
    this.#shown = shown;
    this.#draw();
  }

  get #width() {
    return this.#figure.clientWidth - MARGIN.left - MARGIN.right;
  }

  #draw() {
    if (!this.#shown || this.#width <= 0) return;
    const { curves, length, marks = [], at, axis, label } = this.#shown;
    const [width, right, bottom] = [this.#figure.clientWidth, MARGIN.left + this.#width, curves.length * (TITLE + HEIGHT + GAP) - GAP];
    const x = (place) => MARGIN.left + (place / Math.max(1, length - 1)) * this.#width;
    const chart = svg("svg", { role: "img", width, height: bottom + MARGIN.bottom, "aria-label": label });
    curves.forEach(({ name, points, least, most }, i) => {
      const top = i * (TITLE + HEIGHT + GAP) + TITLE;
      const y = (value) => top + HEIGHT * (1 - (value - least) / (most - least));
      chart.append(svg("text", { class: "title", x: MARGIN.left, y: top - 6 }, name));
      for (const mark of marks) chart.append(svg("line", { class: "mark", x1: x(mark), x2: x(mark), y1: top, y2: top + HEIGHT }));
      for (const value of new Set([least, Math.max(0, least), most])) {
        chart.append(svg("line", { class: "grid", x1: MARGIN.left, x2: right, y1: y(value), y2: y(value) }));
        chart.append(svg("text", { x: MARGIN.left - 5, y: y(value) + 4, "text-anchor": "end" }, number(value, Number.isInteger(value) ? 0 : 1)));
      }
      chart.append(svg("polyline", { points: points.map(([place, value]) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }));
      if (at !== undefined) chart.append(svg("line", { class: "at", x1: x(at), x2: x(at), y1: top, y2: top + HEIGHT }));
    });
    const step = STEPS.find((each) => length / each <= 6) ?? STEPS.at(-1);
    for (let place = 0; place < length; place += step) chart.append(svg("text", { x: x(place), y: bottom + 15, "text-anchor": "middle" }, String(place)));
    chart.append(svg("text", { x: right, y: bottom + 30, "text-anchor": "end" }, axis));
    this.#figure.replaceChildren(chart);
  }
}
