// A drawing of one step of a cell: arrows are as thick as the values that they carry.

import { svg } from "../dom.js";
import { number } from "../format.js";
import { formulaOf } from "../step.js";

const HEIGHT = 224;
// The heights of the state, of the products below it, and of the gates' sources.
const [STATE, PRODUCT, GATE] = [54, 124, 180];
const [RADIUS, MOST_PX, LINE] = [12, 11, 15];

export class CellDiagram {
  #figure;
  #shown = null;

  constructor(figure) {
    this.#figure = figure;
    new ResizeObserver(() => this.#draw()).observe(figure);
  }

  // Shows a step of `stepOf`; the state's largest value, `most`, has the thickest arrow.
  show(step, most) {
    this.#shown = { step, most };
    this.#draw();
  }

  #draw() {
    const width = this.#figure.clientWidth;
    if (!this.#shown || !width) return;
    const { step, most } = this.#shown;
    const { nodes, arrows } = step.forget !== undefined ? lstm(step, most) : step.update !== undefined ? gru(step) : simpleRnn(step);
    const drawing = svg("svg", { role: "img", width, height: HEIGHT, "aria-label": formulaOf(step) || `h′ = ${number(step.hidden)}` });
    const place = (/** @type {number[]} */ [x, y]) => [10 + x * (width - 20), y];
    const isNode = (end) => nodes.some(({ x, y }) => x === end[0] && y === end[1]);
    for (const { from, to, value, scale = 1, kind = value < 0 ? "negative" : "positive" } of arrows) {
      const thick = 1 + (MOST_PX - 1) * Math.min(1, Math.abs(value ?? 0.3) / scale);
      drawing.append(svg("polygon", { class: kind, points: arrow(place(from), place(to), isNode(from), isNode(to), thick) }));
    }
    for (const { sign, x, y } of nodes) {
      const [cx, cy] = place([x, y]);
      drawing.append(svg("circle", { cx, cy, r: sign.length > 1 ? 1.6 * RADIUS : RADIUS }), svg("text", { x: cx, y: cy + 5, "text-anchor": "middle" }, sign));
    }
    for (const { name, value, at, anchor = "middle" } of arrows) {
      const [x, y] = place(at);
      drawing.append(svg("text", { class: "title", x, y, "text-anchor": anchor }, name));
      if (value !== undefined) drawing.append(svg("text", { x, y: y + LINE, "text-anchor": anchor }, number(value)));
    }
    this.#figure.replaceChildren(drawing);
  }
}

// Arrows of a drawing: ends in shares of the width and in pixels, a value, its scale, and the place of its label.
function lstm({ forget, input, candidate, output, cell, hidden, oldCell }, most) {
  return {
    nodes: [node("×", 0.24, STATE), node("+", 0.5, STATE), node("×", 0.5, PRODUCT), node("×", 0.82, PRODUCT)],
    arrows: [
      { from: [0, STATE], to: [0.24, STATE], value: oldCell, scale: most, name: "c", at: [0, STATE - 36], anchor: "start" },
      { from: [0.24, STATE], to: [0.5, STATE], value: forget * oldCell, scale: most, name: "f × c", at: [0.37, STATE - 36] },
      { from: [0.5, STATE], to: [1, STATE], value: cell, scale: most, name: "c′", at: [1, STATE - 36], anchor: "end" },
      { from: [0.5, PRODUCT], to: [0.5, STATE], value: input * candidate, scale: most, name: "i × g", at: [0.47, STATE + 28], anchor: "end" },
      { from: [0.82, STATE], to: [0.82, PRODUCT], value: Math.tanh(cell), name: "tanh c′", at: [0.79, STATE + 28], anchor: "end" },
      { from: [0.82, PRODUCT], to: [1, PRODUCT], value: hidden, name: "h′", at: [1, PRODUCT - 36], anchor: "end" },
      gate("f", forget, 0.24, [0.24, STATE]), gate("i", input, 0.4, [0.5, PRODUCT]), gate("o", output, 0.82, [0.82, PRODUCT]),
      { from: [0.6, GATE], to: [0.5, PRODUCT], value: candidate, name: "g", at: [0.6, GATE + LINE] },
    ],
  };
}

function gru({ update, candidate, hidden, oldHidden }) {
  return {
    nodes: [node("×", 0.26, STATE), node("+", 0.6, STATE), node("×", 0.6, PRODUCT)],
    arrows: [
      { from: [0, STATE], to: [0.26, STATE], value: oldHidden, name: "h", at: [0, STATE - 36], anchor: "start" },
      { from: [0.26, STATE], to: [0.6, STATE], value: update * oldHidden, name: "z × h", at: [0.43, STATE - 36] },
      { from: [0.6, STATE], to: [1, STATE], value: hidden, name: "h′", at: [1, STATE - 36], anchor: "end" },
      { from: [0.6, PRODUCT], to: [0.6, STATE], value: (1 - update) * candidate, name: "(1 − z) × g", at: [0.64, STATE + 28], anchor: "start" },
      gate("z", update, 0.26, [0.26, STATE]), gate("1 − z", 1 - update, 0.48, [0.6, PRODUCT]),
      { from: [0.72, GATE], to: [0.6, PRODUCT], value: candidate, name: "g", at: [0.72, GATE + LINE] },
    ],
  };
}

function simpleRnn({ hidden, oldHidden }) {
  return {
    nodes: [node("tanh", 0.5, STATE)],
    arrows: [
      { from: [0, STATE], to: [0.5, STATE], value: oldHidden, name: "h", at: [0, STATE - 36], anchor: "start" },
      { from: [0.5, STATE], to: [1, STATE], value: hidden, name: "h′", at: [1, STATE - 36], anchor: "end" },
      { from: [0.5, GATE - 40], to: [0.5, STATE], kind: "gate", name: "the token, and h of all units", at: [0.5, GATE - 40 + LINE] },
    ],
  };
}

function gate(name, value, x, to) {
  return { from: [x, GATE], to, value, kind: "gate", name, at: [x, GATE + LINE] };
}

function node(sign, x, y) {
  return { sign, x, y };
}

/**
 * The corners of an arrow, with room for the nodes at its ends.
 * @param {number[]} from
 * @param {number[]} to
 */
function arrow([x1, y1], [x2, y2], fromNode, toNode, thick) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  const [dx, dy] = [(x2 - x1) / length, (y2 - y1) / length];
  const [start, end, head] = [fromNode ? RADIUS : 0, length - (toNode ? RADIUS + 2 : 0), 6 + thick / 2];
  const [half, wide] = [(thick || 1) / 2, thick / 2 + 3];
  const corners = [[start, half], [end - head, half], [end - head, wide], [end, 0], [end - head, -wide], [end - head, -half], [start, -half]];
  return corners.map(([along, aside]) => `${(x1 + dx * along - dy * aside).toFixed(1)},${(y1 + dy * along + dx * aside).toFixed(1)}`).join(" ");
}
