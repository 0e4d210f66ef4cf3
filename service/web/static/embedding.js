// A map of the embedding in its first two principal components, and the nearest neighbors of one token.

import { get } from "./api.js";
import { palette } from "./colors.js";
import { button, row } from "./dom.js";
import { indexOfMin, visible } from "./format.js";

const MARGIN_PX = 24;
const CAPTION = "Nearest neighbors: select a token in the map or the text";
// More labels than this would overlap.
const MAX_NAMED = 150;

export class EmbeddingMap {
  #canvas;
  #rows;
  #help;
  #attempt;
  #reference = null;
  #map = null;
  #chosen = null;
  #near = new Set();

  // `rows` is the table body for neighbors; `help` gets a description of the map.
  constructor({ canvas, rows, help }, attempt) {
    this.#canvas = canvas;
    this.#rows = rows;
    this.#help = help;
    this.#attempt = attempt;
    canvas.addEventListener("click", (event) => this.#pick(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Shows the map of a model, unless it is already shown.
  async show(reference) {
    if (this.#reference === reference) return;
    this.#reference = reference;
    this.#map = null;
    this.#chosen = null;
    this.#near.clear();
    this.#rows.replaceChildren();
    this.#rows.parentElement.caption.textContent = CAPTION;
    this.#help.textContent = "";
    this.draw();
    const isShown = await this.#attempt(async () => {
      const map = await get(`v1/models/${encodeURIComponent(reference)}/embedding/map?count=1000`);
      if (this.#reference !== reference) return;
      this.#map = map;
      const shares = map.explained.map((share) => `${Math.round(100 * share)}%`);
      this.#help.textContent = `The first two principal components of ${map.tokens.length} tokens explain ${shares.join(" and ")} of the variance.`;
      this.draw();
    }, undefined, () => this.show(reference));
    if (!isShown && this.#reference === reference) this.#reference = null; // so that it is requested again
  }

  // Shows the neighbors of a token.
  async choose(tokenId) {
    if (!this.#map || this.#chosen === tokenId) return;
    this.#chosen = tokenId;
    const isShown = await this.#attempt(async () => {
      const found = await get(`v1/models/${encodeURIComponent(this.#reference)}/embedding/neighbors?token_id=${tokenId}&count=10`);
      if (this.#chosen !== tokenId) return;
      const hadFocus = this.#rows.contains(document.activeElement);
      this.#near = new Set(found.data.map((neighbor) => neighbor.token_id));
      this.#rows.replaceChildren(...found.data.map(({ token_id: id, token, cosine }) =>
        row([[button(visible(token), `Neighbors of ${visible(token)}`, () => this.choose(id))], cosine.toFixed(3)])));
      if (hadFocus) this.#rows.querySelector("button").focus();
      this.#rows.parentElement.caption.textContent = `Nearest to ${visible(found.token)}`;
      this.draw();
    }, undefined, () => this.choose(tokenId));
    if (!isShown && this.#chosen === tokenId) this.#chosen = null;
  }

  // The point of each token on the canvas, [x, y] in pixels.
  #points() {
    const along = (values, length) => {
      const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
      const stretch = (length - 2 * MARGIN_PX) / (high - low || 1);
      return values.map((value) => MARGIN_PX + (value - low) * stretch);
    };
    const ys = along(this.#map.y, this.#canvas.clientHeight);
    return along(this.#map.x, this.#canvas.clientWidth).map((x, i) => [x, ys[i]]);
  }

  draw() {
    const { clientWidth, clientHeight } = this.#canvas;
    const scale = window.devicePixelRatio || 1;
    Object.assign(this.#canvas, { width: clientWidth * scale, height: clientHeight * scale });
    if (!this.#map) return;
    const context = this.#canvas.getContext("2d");
    context.scale(scale, scale);
    context.textAlign = "center";
    const named = this.#map.tokens.length <= MAX_NAMED;
    this.#points().forEach(([x, y], i) => {
      const id = this.#map.token_ids[i];
      const [chosen, near] = [id === this.#chosen, this.#near.has(id)];
      context.fillStyle = chosen ? palette().accent : near ? palette().ink : palette().faint;
      context.font = `${chosen || near ? "bold 16px" : "13px"} ui-monospace, monospace`;
      if (named || chosen || near) context.fillText(visible(this.#map.tokens[i]), x, y + 4);
      else context.fillRect(x - 1, y - 1, 3, 3);
    });
  }

  #pick(event) {
    if (!this.#map) return;
    const distances = this.#points().map(([x, y]) => Math.hypot(x - event.offsetX, y - event.offsetY));
    this.choose(this.#map.token_ids[indexOfMin(distances)]);
  }
}
