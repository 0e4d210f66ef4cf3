// A heat map of a matrix, tokens from left to right and units from top to bottom, above the stacked curves of one unit.
// Only the visible part is drawn, so that thousands of tokens scroll as smoothly as a few.

import { Failure } from "../api.js";
import { Palette, palette } from "../colors.js";
import { make } from "../dom.js";
import { yieldToBrowser } from "../inspection.js";
import { number, visible } from "../format.js";

const LABELS_PX = 20;
// Of a curve and of its title.
const CURVE_PX = 52;
const TITLE_OF_CURVE_PX = 20;
const MAP_PX = 420;
const MAX_UNIT_PX = 10;
// Narrower columns have no room for a character.
const LABELLED_PX = 8;
// Maximum side of a PNG: Chromium limits a canvas to 32,767 pixels a side, Safari to 67 million pixels in all.
const MAX_PICTURE_PX = 16_384;
const TITLE_PX = 32;
// Width of a strip of the PNG: otherwise a long text would need an intermediate canvas of its full length.
const STRIP_PX = 512;

export class Heatmap {
  #scroller;
  #spacer;
  #canvas;
  #on;
  #shown = null;
  #waits = false;

  // `scroller` gets the canvas; `on.chosen` is called with a row and a column, `on.pointed` with those under the pointer.
  constructor(scroller, on) {
    this.#scroller = scroller;
    this.#on = on;
    this.#canvas = make("canvas");
    this.#spacer = make("div", {}, this.#canvas);
    scroller.append(this.#spacer);
    scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    scroller.addEventListener("keydown", (event) => this.#move(event));
    this.#canvas.addEventListener("click", (event) => this.#choose(event));
    this.#canvas.addEventListener("pointermove", (event) => on.pointed(this.#under(event)));
    this.#canvas.addEventListener("pointerleave", () => on.pointed(null));
    new ResizeObserver(() => this.draw()).observe(scroller);
  }

  // Shows: matrix, order (of its columns, from top to bottom), labels (a text for each row), width of a token in
  // pixels, curves (name and matrix of each below), and the selected row and column.
  show(shown) {
    this.#shown = shown;
    this.#spacer.style.width = `${shown.matrix.rows * shown.width}px`;
    this.#spacer.style.height = `${this.#height}px`;
    this.draw();
  }

  // Scrolls to the selected row.
  reveal() {
    const { row, width } = this.#shown;
    const { scrollLeft, clientWidth } = this.#scroller;
    if (row * width < scrollLeft || (row + 1) * width > scrollLeft + clientWidth) {
      this.#scroller.scrollLeft = (row + 0.5) * width - clientWidth / 2;
    }
  }

  // Draws before the next frame, once.
  draw() {
    if (this.#waits || !this.#shown) return;
    this.#waits = true;
    requestAnimationFrame(() => {
      this.#waits = false;
      this.#draw();
    });
  }

  // The whole map as a PNG. A token gets up to 12 pixels or, if that is too wide, a pixel has the mean of several tokens.
  // Returns `blob` and `tokensPerPixel`.
  async picture(title) {
    const shown = this.#shown;
    const { matrix } = shown;
    const tokensPerPixel = Math.ceil(matrix.rows / MAX_PICTURE_PX);
    const width = Math.max(1, Math.min(12, Math.floor(8192 / matrix.rows))) / tokensPerPixel;
    const unit = Math.max(1, Math.min(MAX_UNIT_PX, Math.floor(1024 / matrix.columns)));
    const height = Math.min(MAX_PICTURE_PX / 4 - TITLE_PX, matrix.columns * unit);
    const canvas = make("canvas", { width: Math.max(480, Math.ceil(matrix.rows * width)), height: height + TITLE_PX });
    const context = canvas.getContext("2d");
    context.fillStyle = palette().ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.fillStyle = palette().ink;
    context.font = "15px sans-serif";
    context.fillText(tokensPerPixel > 1 ? `${title}, ${tokensPerPixel} tokens in a pixel` : title, 6, 21);
    context.imageSmoothingEnabled = tokensPerPixel > 1 || height < matrix.columns;
    context.imageSmoothingQuality = "high";
    const strip = STRIP_PX * tokensPerPixel;
    for (let first = 0; first < matrix.rows; first += strip) {
      const last = Math.min(matrix.rows, first + strip);
      context.drawImage(this.#pixels(first, last, shown), first * width, TITLE_PX, (last - first) * width, height);
      await yieldToBrowser();
    }
    const blob = await new Promise((resolve) => canvas.toBlob(resolve));
    if (!blob) throw new Failure(`This browser cannot create an image of ${canvas.width} × ${canvas.height} pixels. Inspect fewer tokens or units.`);
    return { blob, tokensPerPixel };
  }

  get #mapHeight() {
    return Math.min(MAP_PX, this.#shown.matrix.columns * MAX_UNIT_PX);
  }

  get #labelsHeight() {
    return this.#shown.width >= LABELLED_PX ? LABELS_PX : 0;
  }

  get #curvesHeight() {
    return this.#shown.curves.length * CURVE_PX;
  }

  get #height() {
    return this.#labelsHeight + this.#mapHeight + this.#curvesHeight;
  }

  #draw() {
    const { matrix, order, width, row, column } = this.#shown;
    const { clientWidth, scrollLeft } = this.#scroller;
    const context = this.#sized(clientWidth, this.#height);
    const first = Math.floor(scrollLeft / width);
    const last = Math.min(matrix.rows, Math.ceil((scrollLeft + clientWidth) / width));
    if (last <= first) return;
    const left = first * width - scrollLeft;
    const [top, height] = [this.#labelsHeight, this.#mapHeight];
    // Downscaling is smoothed, so that no unit disappears; upscaling is not.
    context.imageSmoothingEnabled = height < matrix.columns;
    context.drawImage(this.#pixels(first, last), left, top, (last - first) * width, height);
    this.#drawLabels(context, first, last);
    this.#drawCurves(context, first, last, top + height);
    context.strokeStyle = palette().ink;
    const unitHeight = height / matrix.columns;
    const x = row * width - scrollLeft;
    context.strokeRect(x - 0.5, top, Math.max(width, 2) + 1, height + this.#curvesHeight);
    context.strokeRect(-2, top + order.indexOf(column) * unitHeight - 0.5, clientWidth + 4, Math.max(unitHeight, 2) + 1);
  }

  #sized(width, height) {
    const scale = window.devicePixelRatio || 1;
    const [across, down] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.#canvas.width !== across || this.#canvas.height !== down) {
      Object.assign(this.#canvas, { width: across, height: down });
      Object.assign(this.#canvas.style, { width: `${width}px`, height: `${height}px` });
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.fillStyle = palette().ground;
    context.fillRect(0, 0, width, height);
    return context;
  }

  // Some rows of the matrix as a picture, one pixel per number.
  #pixels(first, last, { matrix, order } = this.#shown) {
    const { pixels } = palette();
    const image = new ImageData(last - first, matrix.columns);
    const into = new Uint32Array(image.data.buffer);
    for (let row = first; row < last; row++) {
      const start = row * matrix.columns;
      for (let rank = 0, i = row - first; rank < order.length; rank++, i += last - first) {
        into[i] = pixels[Palette.step(matrix.values[start + order[rank]], matrix.limit)];
      }
    }
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  #drawLabels(context, first, last) {
    if (!this.#labelsHeight) return;
    const { width, labels } = this.#shown;
    context.fillStyle = palette().ink;
    context.font = `${Math.min(13, width + 3)}px ui-monospace, monospace`;
    context.textAlign = "center";
    for (let row = first; row < last; row++) {
      const x = (row + 0.5) * width - this.#scroller.scrollLeft;
      context.fillText(visible(labels[row]), x, 14, width);
    }
  }

  // Small multiples: each curve has its own axis.
  #drawCurves(context, first, last, top) {
    const { curves, column, width } = this.#shown;
    const { scrollLeft, clientWidth } = this.#scroller;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "left";
    curves.forEach(({ name, matrix }, i) => {
      const most = matrix.signed ? Math.max(1, matrix.most(column)) : 1;
      const least = matrix.signed ? -most : 0;
      const bottom = top + (i + 1) * CURVE_PX - 3;
      const y = (value) => bottom - ((CURVE_PX - TITLE_OF_CURVE_PX) * (value - least)) / (most - least);
      context.strokeStyle = palette().line;
      for (const value of [least, 0, most]) line(context, [[0, y(value)], [clientWidth, y(value)]]);
      context.strokeStyle = palette().accent;
      const rows = Array.from({ length: Math.min(matrix.rows, last + 1) - Math.max(0, first - 1) }, (_, row) => Math.max(0, first - 1) + row);
      line(context, rows.map((row) => [(row + 0.5) * width - scrollLeft, y(matrix.at(row, column))]));
      context.fillStyle = palette().ink;
      const [low, high] = [least, most].map((end) => number(end, Number.isInteger(end) ? 0 : 1));
      context.fillText(`${name}, ${low} to ${high}`, 4, y(most) - 4);
    });
  }

  // The row and column under a pointer; null outside the map.
  #under(event) {
    if (!this.#shown) return null;
    const { matrix, order, width } = this.#shown;
    const row = Math.floor((event.offsetX + this.#scroller.scrollLeft) / width);
    const rank = Math.floor(((event.offsetY - this.#labelsHeight) / this.#mapHeight) * matrix.columns);
    if (row < 0 || row >= matrix.rows) return null;
    return { row, column: order[Math.max(0, Math.min(rank, order.length - 1))], inside: rank >= 0 && rank < order.length };
  }

  #choose(event) {
    const under = this.#under(event);
    if (under) this.#on.chosen(under.row, under.inside ? under.column : this.#shown.column);
  }

  // Arrow keys move between tokens and units.
  #move(event) {
    if (!this.#shown || event.ctrlKey || event.metaKey || event.altKey) return;
    const { matrix, order, row, column } = this.#shown;
    const rank = order.indexOf(column);
    const [nextRow, nextRank] = {
      ArrowLeft: [row - 1, rank], ArrowRight: [row + 1, rank], ArrowUp: [row, rank - 1], ArrowDown: [row, rank + 1],
      Home: [0, rank], End: [matrix.rows - 1, rank], PageUp: [row, rank - 16], PageDown: [row, rank + 16],
    }[event.key] ?? [];
    if (nextRow === undefined) return;
    event.preventDefault();
    const within = (value, count) => Math.max(0, Math.min(value, count - 1));
    this.#on.chosen(within(nextRow, matrix.rows), order[within(nextRank, order.length)]);
  }
}

function line(context, points) {
  context.beginPath();
  points.forEach(([x, y]) => context.lineTo(x, y));
  context.stroke();
}
