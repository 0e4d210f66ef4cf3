// A legend of a color scale: its ends in words or numbers, and the colors between them.

import { make } from "../dom.js";

export function showLegend(element, low, high, isSigned) {
  const ramp = make("span", { className: "ramp" });
  ramp.dataset.signed = isSigned;
  element.replaceChildren(low, ramp, high);
}
