// How tokens and their probabilities are told, to eyes and to ears.

// White space as a screen reader can say it.
export function speakable(text) {
  const names = { " ": "space", "\n": "line end", "\t": "tab" };
  return [...text].map((character) => names[character] ?? "blank").join(", ") || "nothing";
}

// White space and what cannot be seen, written out.
export function visible(text) {
  return text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣") || "(nothing)";
}

export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  return value >= 0.1 ? `${value.toFixed(1)}%` : "less than 0.1%";
}

// A number as it is read: a real minus, and no minus before nothing.
export function number(value, digits = 3) {
  const text = value.toFixed(digits);
  return text.startsWith("-") ? (Number(text) === 0 ? text.slice(1) : `−${text.slice(1)}`) : text;
}

// The place of the least of many numbers; null ones don't count, and -1: there is none. As arguments of Math.min, more than
// some 100,000 would overflow the stack.
export function placeOfLeast(values) {
  return values.reduce((least, value, place) => (value !== null && !(value >= values[least]) ? place : least), -1);
}

// Lines of a table, most probable first: a token, its probability as a bar and a number. `tokens` are log
// probabilities by text; the one that is `chosen` is marked; `more` may add cells to a line.
export function probabilities(tokens, chosen, more = () => []) {
  return Object.entries(tokens)
    .sort(([, one], [, other]) => other - one)
    .map(([text, logprob]) => {
      const bar = document.createElement("meter");
      bar.value = Math.exp(logprob);
      bar.title = percent(logprob);
      const line = row([visible(text), [bar, ` ${percent(logprob)}`], ...more(text, logprob)]);
      if (text === chosen) line.className = "chosen";
      return line;
    });
}

// A line of a table, its first cell a header; a cell is a text, or a list of nodes and texts.
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
