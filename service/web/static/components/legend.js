// A legend of a color scale: its ends in words or numbers, and the colors between them.

export function showLegend(element, low, high, isSigned) {
  const ramp = document.createElement("span");
  ramp.className = "ramp";
  ramp.dataset.signed = isSigned;
  element.replaceChildren(low, ramp, high);
}
