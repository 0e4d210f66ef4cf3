// A strip: a text as one row of colored cells, one for each token or, in a long text, for several.

import { Palette, palette } from "../colors.js";
import { button, make } from "../dom.js";

const MAX_CELLS = 1024;

// Draws values, one for each token, on a canvas; a cell of several tokens has the strongest. `most` has the strongest
// color.
export function drawStrip(canvas, values, most) {
  const count = Math.min(values.length, MAX_CELLS);
  Object.assign(canvas, { width: Math.max(1, count), height: 1 });
  const strongest = new Float32Array(count);
  values.forEach((value, i) => {
    const cell = Math.floor((i * count) / values.length);
    if (Math.abs(value) > Math.abs(strongest[cell])) strongest[cell] = value;
  });
  const pixels = Uint32Array.from(strongest, (value) => palette().pixels[Palette.step(value, most)]);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), Math.max(1, count), 1), 0, 0);
}

// A button with a title and a strip below it; `draw` redraws the strip, for another theme.
export function stripButton(title, detail, values, most, pressed) {
  const canvas = make("canvas");
  const draw = () => drawStrip(canvas, values, most);
  draw();
  const made = Object.assign(button("", "", pressed), { className: "strip", draw });
  made.append(make("strong", { textContent: title }), " ", make("span", { textContent: detail }), canvas);
  return made;
}
