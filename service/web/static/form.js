// The form of a column: a control for each field, with its error beside it.

import { button, fill, labeled, make } from "./dom.js";
import { CONSTRAINT_FIELDS, PRESETS, SAMPLING_FIELDS, constraintsOf } from "./fields.js";

/** @type {any[]} */
const FIELDS = [...SAMPLING_FIELDS, ...CONSTRAINT_FIELDS];
const TAGS = { select: "select", json: "textarea", lines: "textarea" };

export class Form {
  #fields = {};
  #presets;
  #constraints;
  #changed;

  // `settings` has the groups of fields: the main ones, the other sampling parameters, and constraints; `changed` is
  // called after each change.
  constructor(number, settings, values, changed) {
    const [main, more, constraints] = settings.querySelectorAll(".fields");
    this.#constraints = constraints.closest("details");
    this.#changed = changed;
    for (const field of FIELDS) {
      const made = new Field(field, `${field.name}-${number}`, values[field.name] ?? field.value, () => this.#update());
      this.#fields[field.name] = made;
      (CONSTRAINT_FIELDS.includes(field) ? constraints : field.isMain ? main : more).append(made.element);
    }
    this.#presets = Object.entries(PRESETS).map(([name, preset]) => button(name, "", () => this.fill(preset)));
    settings.querySelector(".presets").append(...this.#presets);
    this.#show();
    this.#constraints.open = constraintsOf(this.values).length > 0;
    more.closest("details").open = SAMPLING_FIELDS.some(({ name, isMain, value }) => !isMain && this.values[name] !== String(value));
  }

  // Sets fields by name.
  fill(values) {
    Object.entries(values).forEach(([name, value]) => { this.#fields[name].value = value; });
    this.#update();
  }

  get values() {
    return Object.fromEntries(Object.entries(this.#fields).map(([name, field]) => [name, field.value]));
  }

  // Shows the error of a request beside its field, if it has one.
  showError({ message, param }) {
    const member = /^structured_outputs\.(\w+)/.exec(message)?.[1];
    const [constraint] = constraintsOf(this.values).filter(({ isMember }) => isMember);
    const name = param === "structured_outputs" ? member ?? constraint?.name : param;
    const field = this.#fields[name];
    if (!field) return;
    field.showError(message);
    const group = field.element.closest("details");
    if (group) group.open = true;
  }

  clearErrors() {
    Object.values(this.#fields).forEach((field) => field.showError(""));
  }

  #update() {
    this.#show();
    this.#changed();
  }

  // Shows the preset that matches the values, the field of the selected pattern, and in the group's title what applies.
  #show() {
    const { values } = this;
    Object.values(PRESETS).forEach((preset, i) => {
      this.#presets[i].setAttribute("aria-pressed", String(Object.entries(preset).every(([name, value]) => Number(values[name]) === value)));
    });
    for (const { name, pattern } of FIELDS) this.#fields[name].element.hidden = Boolean(pattern) && pattern !== values.pattern;
    const labels = constraintsOf(values).map(({ label }) => label);
    this.#constraints.querySelector("summary span").textContent = labels.length ? `: ${labels.join(", ")}` : "";
  }
}

class Field {
  #control;
  #error;
  // The value of a slider.
  #shown;
  #isRange;

  constructor(field, id, value, changed) {
    this.element = make("div", { className: field.pattern || field.kind === "select" ? "wide" : "" });
    const { label, control } = labeled(TAGS[field.kind] ?? "input", id, field.label);
    configure(control, field, value);
    this.#control = control;
    this.#isRange = field.kind === "range";
    this.#shown = make("output", { htmlFor: id });
    this.#error = textBelow("error", `${id}-error`, "");
    control.setAttribute("aria-describedby", `${id}-error ${id}-help`);
    control.addEventListener("input", () => {
      this.#show();
      this.showError("");
      changed();
    });
    label.append(this.#shown, control);
    this.element.append(label, this.#error, textBelow("help", `${id}-help`, field.help));
    this.#show();
  }

  get value() {
    return this.#control.value;
  }

  set value(value) {
    this.#control.value = value;
    this.#show();
    this.showError("");
  }

  // Shows an error below the control; an empty one removes it.
  showError(message) {
    this.#error.textContent = message;
    this.#error.hidden = !message;
    if (message) this.#control.setAttribute("aria-invalid", "true");
    else this.#control.removeAttribute("aria-invalid");
  }

  #show() {
    this.#shown.textContent = this.#isRange ? this.#control.value : "";
  }
}

function configure(control, { kind, options, rows, min, max, step, value: placeholder }, value) {
  if (kind === "select") return fill(control, options, value);
  const own = TAGS[kind] ? { rows } : { type: kind === "regex" ? "text" : kind, min, max, step, placeholder };
  const className = kind === "regex" || kind === "json" ? "code" : "";
  return Object.assign(control, { ...own, className, value, spellcheck: false, autocapitalize: "off" });
}

function textBelow(className, id, text) {
  return make("span", { className, id, textContent: text, hidden: !text });
}
