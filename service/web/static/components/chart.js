// A chart of training and validation loss by tokens read, as SVG.

import { svg } from "../dom.js";
import { count, number } from "../format.js";

const HEIGHT = 260;
const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };
// More would cover the line.
const MAX_DOTS = 30;
const STEPS = [1, 2, 5, 10];

export class Chart {
  #figure;
  #progress = null;

  constructor(figure) {
    this.#figure = figure;
    // Drawn in screen pixels, so that text keeps its size on a phone.
    new ResizeObserver(() => this.#draw()).observe(figure);
  }

  show(progress) {
    this.#progress = progress;
    this.#draw();
  }

  #draw() {
    const width = this.#figure.clientWidth;
    if (!this.#progress || !width) return;
    const { training, epochs, best } = this.#progress;
    const validation = epochs.filter(({ loss }) => loss !== null);
    const chart = svg("svg", { role: "img", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, "aria-label": label(training, validation, best) });
    const losses = [...training, ...validation].map(({ loss }) => loss);
    const yTicks = ticks(Math.min(...losses, Infinity), Math.max(...losses, -Infinity), 4);
    const xTicks = ticks(0, Math.max(...training.map(({ tokens }) => tokens), 1), width < 420 ? 3 : 5);
    const x = scale(xTicks, MARGIN.left, width - MARGIN.right);
    const y = scale(yTicks, HEIGHT - MARGIN.bottom, MARGIN.top);
    for (const value of yTicks) {
      chart.append(svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
      chart.append(svg("text", { x: MARGIN.left - 6, y: y(value) + 4, "text-anchor": "end" }, number(value, digits(yTicks))));
    }
    for (const value of xTicks) chart.append(svg("text", { x: x(value), y: HEIGHT - MARGIN.bottom + 18, "text-anchor": value ? "middle" : "start" }, short(value)));
    chart.append(svg("text", { x: width - MARGIN.right, y: HEIGHT - 4, "text-anchor": "end" }, "tokens read"));
    chart.append(line(training, x, y, "training"), line(validation, x, y, "validation"));
    const marked = validation.length > MAX_DOTS ? [best] : validation;
    chart.append(...marked.map((each) => dot(each, x, y, each === best)));
    this.#figure.replaceChildren(chart);
  }
}

function line(points, x, y, className) {
  return svg("polyline", { class: className, points: points.map(({ tokens, loss }) => `${x(tokens).toFixed(1)},${y(loss).toFixed(1)}`).join(" ") });
}

function dot({ tokens, loss, epoch }, x, y, isBest) {
  const made = svg("circle", { class: isBest ? "best" : "epoch", cx: x(tokens), cy: y(loss), r: isBest ? 6 : 3 });
  made.append(svg("title", {}, `Epoch ${epoch}: ${number(loss)}`));
  return made;
}

// Round numbers from below the least value to above the greatest.
function ticks(least, greatest, parts) {
  if (!Number.isFinite(least) || !Number.isFinite(greatest)) return [0, 1];
  const rough = Math.max((greatest - least) / parts, 1e-3);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * STEPS.find((each) => each * power >= rough * 0.999);
  const first = Math.floor(least / step + 1e-9);
  const last = Math.max(first + 1, Math.ceil(greatest / step - 1e-9));
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

function scale(values, from, to) {
  const [least, greatest] = [values[0], values.at(-1)];
  return (value) => from + ((value - least) / (greatest - least)) * (to - from);
}

function digits(values) {
  return Math.max(1, -Math.floor(Math.log10(values[1] - values[0]) + 1e-9));
}

function short(value) {
  return value >= 1e6 ? `${Number((value / 1e6).toFixed(2))}M` : value >= 1000 ? `${Number((value / 1000).toFixed(1))}k` : count(value);
}

function label(training, validation, best) {
  if (!training.length) return "Loss: nothing measured yet";
  const last = validation.at(-1);
  const after = last ? `, validation ${number(last.loss)} after epoch ${last.epoch}, lowest ${number(best.loss)} after epoch ${best.epoch}` : "";
  return `Loss in nats per token: training ${number(training.at(-1).loss)}${after}`;
}
