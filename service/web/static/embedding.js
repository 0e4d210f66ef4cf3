// A map of the embedding in its first two principal components, and the nearest neighbors of one token.

import { get } from "./api.js";
import { attempt } from "./attempt.js";
import { palette } from "./colors.js";
import { button, findAll, row } from "./dom.js";
import { indexOfMin, rangeOf, visible } from "./format.js";

const [canvas, rows, help] = findAll(["plane", "neighbors", "embedding-help"]);
const MARGIN_PX = 24;
const CAPTION = "Nearest neighbors: select a token in the map or the text";
// More labels than this would overlap.
const MAX_NAMED = 150;

export class EmbeddingMap {
  #reference = null;
  #map = null;
  #chosen = null;
  #near = new Set();

  constructor() {
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
    rows.replaceChildren();
    rows.parentElement.caption.textContent = CAPTION;
    help.textContent = "";
    this.draw();
    const isShown = await attempt(async () => {
      const map = await get(`v1/models/${encodeURIComponent(reference)}/embedding/map?count=1000`);
      if (this.#reference !== reference) return;
      this.#map = map;
      const shares = map.explained.map((share) => `${Math.round(100 * share)}%`);
      help.textContent = `The first two principal components of ${map.tokens.length} tokens explain ${shares.join(" and ")} of the variance.`;
      this.draw();
    }, undefined, () => this.show(reference));
    if (!isShown && this.#reference === reference) this.#reference = null; // so that it is requested again
  }

  // Shows the neighbors of a token.
  async choose(tokenId) {
    if (!this.#map || this.#chosen === tokenId) return;
    this.#chosen = tokenId;
    const reference = this.#reference;
    const isCurrent = () => this.#reference === reference && this.#chosen === tokenId;
    const isShown = await attempt(async () => {
      const found = await get(`v1/models/${encodeURIComponent(reference)}/embedding/neighbors?token_id=${tokenId}&count=10`);
      if (!isCurrent()) return;
      const hadFocus = rows.contains(document.activeElement);
      this.#near = new Set(found.data.map((neighbor) => neighbor.token_id));
      rows.replaceChildren(...found.data.map(({ token_id: id, token, cosine }) =>
        row([[button(visible(token), `Neighbors of ${visible(token)}`, () => this.choose(id))], cosine.toFixed(3)])));
      if (hadFocus) rows.querySelector("button").focus();
      rows.parentElement.caption.textContent = `Nearest to ${visible(found.token)}`;
      this.draw();
    }, undefined, () => this.choose(tokenId));
    if (!isShown && isCurrent()) this.#chosen = null;
  }

  // The point of each token on the canvas, [x, y] in pixels.
  #points() {
    const along = (values, length) => {
      const [low, high] = rangeOf(values);
      const stretch = (length - 2 * MARGIN_PX) / (high - low || 1);
      return values.map((value) => MARGIN_PX + (value - low) * stretch);
    };
    const ys = along(this.#map.y, canvas.clientHeight);
    return along(this.#map.x, canvas.clientWidth).map((x, i) => [x, ys[i]]);
  }

  draw() {
    const { clientWidth, clientHeight } = canvas;
    const scale = window.devicePixelRatio || 1;
    Object.assign(canvas, { width: clientWidth * scale, height: clientHeight * scale });
    if (!this.#map) return;
    const context = canvas.getContext("2d");
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
