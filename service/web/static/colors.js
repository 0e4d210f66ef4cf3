// Colors of numbers: cold below zero, warm above, the background for zero. They follow the theme.

const STEPS = 256;

let current = null;

// The colors of the current theme.
export function palette() {
  const { theme } = document.documentElement.dataset;
  if (current?.theme !== theme) current = new Palette(theme);
  return current;
}

// The color of a value as CSS that follows the theme, for elements that are not redrawn.
export function themed(value, limit) {
  const share = Math.max(-1, Math.min(1, value / limit));
  return `color-mix(in srgb, var(${share < 0 ? "--cold" : "--warm"}) ${(100 * Math.abs(share)).toFixed(1)}%, var(--raised))`;
}

export class Palette {
  constructor(theme) {
    this.theme = theme;
    const style = getComputedStyle(document.documentElement);
    const [cold, ground, warm] = ["--cold", "--raised", "--warm"].map((name) => rgb(style.getPropertyValue(name)));
    this.ink = style.getPropertyValue("--ink").trim();
    this.faint = style.getPropertyValue("--faint").trim();
    this.line = style.getPropertyValue("--line").trim();
    this.ground = style.getPropertyValue("--raised").trim();
    this.accent = style.getPropertyValue("--accent").trim();
    this.#colors = Array.from({ length: STEPS }, (_, step) => {
      const share = (2 * step) / (STEPS - 1) - 1;
      return mixed(ground, share < 0 ? cold : warm, Math.abs(share));
    });
    // In canvas format: red, green, blue and alpha, from the lowest byte on.
    this.pixels = Uint32Array.from(this.#colors, ([red, green, blue]) => (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0);
  }

  #colors;

  // The index of a value in `pixels`.
  static step(value, limit) {
    const share = value / limit;
    return Math.round(((Math.max(-1, Math.min(1, share)) + 1) / 2) * (STEPS - 1));
  }

  css(value, limit) {
    return `rgb(${this.#colors[Palette.step(value, limit)].join(" ")})`;
  }
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.trim().slice(at, at + 2), 16));
}

function mixed(one, other, share) {
  return one.map((part, i) => Math.round(part + (other[i] - part) * share));
}
