// Finding and creating elements.

// As in the style sheets.
export const PHONE = "(max-width: 44rem)";

/** @returns {any} an element of any type: templates and tests check it */
export function find(id) {
  return document.getElementById(id);
}

export function findAll(ids) {
  return ids.map(find);
}

/**
 * Creates an element with properties, and with nodes and texts in it.
 * @returns {any}
 */
export function make(tag, properties = {}, ...content) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...content);
  return made;
}

// A table row whose first cell is a header; a cell is a text, or a list of nodes and texts.
export function row([head, ...cells]) {
  const name = make("th", { scope: "row" }, ...[head].flat());
  return make("tr", {}, name, ...cells.map((content) => make("td", {}, ...[content].flat())));
}

export function button(text, label, pressed) {
  const made = make("button", { type: "button", textContent: text });
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", pressed);
  return made;
}

// Gives a <select> its options, each a value and a text.
export function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

// A label and its control of this tag and id, which is not in it yet.
export function labeled(tag, id, text) {
  return { label: make("label", { htmlFor: id }, make("span", { textContent: text })), control: make(tag, { id }) };
}

// Opens a dialog; returns the value of the button that closes it, "" after Escape.
export function answer(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

// Copies a text to the clipboard; returns whether the browser allows that.
export async function copyText(text) {
  return Boolean(await navigator.clipboard?.writeText(text).then(() => true, () => false));
}

// An SVG element with a text, if any.
export function svg(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// A key, mirrored in right-to-left text.
export function keyAlong(key, element) {
  const isMirrored = getComputedStyle(element).direction === "rtl";
  return (isMirrored && { ArrowLeft: "ArrowRight", ArrowRight: "ArrowLeft" }[key]) || key;
}

// The index to which a key leads in a list of `count` items; undefined if it leads nowhere.
export function indexByKey(key, index, count) {
  const next = { ArrowLeft: index - 1, ArrowRight: index + 1, Home: 0, End: count - 1 }[key];
  return next >= 0 && next < count ? next : undefined;
}
