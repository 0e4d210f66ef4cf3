// Which models answer, and two lists to choose one and its version from.

import { Failure, get } from "./api.js";

export async function loadModels() {
  const models = (await get("v1/models")).data;
  if (!models.length) throw new Failure("No model answers yet. Train one, or wait until it is loaded, and reload this page.");
  return models;
}

export class ModelChoice {
  #models = [];
  #name;
  #version;

  // `changed` is called when another one is chosen.
  constructor(name, version, changed) {
    this.#name = name;
    this.#version = version;
    name.addEventListener("change", () => {
      this.#showVersions("");
      changed();
    });
    version.addEventListener("change", changed);
  }

  // As requests name it: "demo", or "demo:2".
  get reference() {
    return this.#version.value ? `${this.#name.value}:${this.#version.value}` : this.#name.value;
  }

  // What the service says of it; undefined if it is not served.
  get model() {
    return this.#models.find(({ id }) => id === this.#name.value);
  }

  // Shows these, with what was chosen before, or `reference`, even if it is not served.
  show(models, reference = this.reference) {
    this.#models = models;
    const [name, version] = (reference || models[0]?.id || "").split(":");
    const gone = name && !models.some((model) => model.id === name);
    fill(this.#name, [...(gone ? [[name, `${name} (not served)`]] : []), ...models.map(({ id }) => [id, id])], name);
    this.#showVersions(version ?? "");
  }

  #showVersions(chosen) {
    const versions = (this.model?.versions ?? []).map(({ version, labels }) => [String(version), [version, ...labels].join(" · ")]);
    fill(this.#version, [["", "the one that answers"], ...versions], chosen);
  }
}

// Gives a list its options, each a value and what is shown for it.
export function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === chosen)));
}
