// The labels of a text: a list for each label column of the model, beside the fields of a form.

import { fill, labeled } from "./dom.js";

export class LabelChoice {
  // A <select> for each label column, by its name.
  #selects = {};
  #after;
  #number;
  #changed;

  // The lists follow the <label> `after`; `number` makes their ids unique; `changed` is called when another label is selected.
  constructor(after, number, changed) {
    [this.#after, this.#number, this.#changed] = [after, number, changed];
  }

  // The field `labels` of a request, without columns set to any label.
  get chosen() {
    return Object.fromEntries(Object.entries(this.#selects).map(([name, { value }]) => [name, value]).filter(([, value]) => value));
  }

  // Shows the lists of a model, an object of /v1/models, and selects the previous labels, or `chosen`, if it has them.
  show(model, chosen = this.chosen) {
    Object.values(this.#selects).forEach((select) => select.closest("label").remove());
    const columns = Object.entries(model?.label_columns ?? {});
    this.#selects = Object.fromEntries(columns.map(([name, values], i) => {
      const { label, control } = labeled("select", `label-${i}-${this.#number}`, name);
      label.append(control);
      fill(control, [["", "any"], ...values.map((value) => [value, value])], chosen[name] ?? "");
      control.addEventListener("change", this.#changed);
      return [name, control];
    }));
    this.#after.after(...Object.values(this.#selects).map((select) => select.closest("label")));
  }
}
