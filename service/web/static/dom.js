// Finding and creating elements.

/** @returns {any} an element of any type: templates and tests check it */
export function find(id) {
  return document.getElementById(id);
}

export function findAll(ids) {
  return ids.map(find);
}

// A table row whose first cell is a header; a cell is a text, or a list of nodes and texts.
export function row([head, ...cells]) {
  const line = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.append(...[head].flat());
  line.append(name, ...cells.map((content) => {
    const cell = document.createElement("td");
    cell.append(...[content].flat());
    return cell;
  }));
  return line;
}

export function button(text, label, pressed) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", pressed);
  return made;
}

// Gives a <select> its options, each a value and a text.
export function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}

// A label and its control of this tag and id, which is not in it yet.
export function labelled(tag, id, text) {
  const label = document.createElement("label");
  const name = document.createElement("span");
  name.textContent = text;
  const control = document.createElement(tag);
  control.id = id;
  label.htmlFor = id;
  label.append(name);
  return { label, control };
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
