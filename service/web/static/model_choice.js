// The served models, and two lists to select one and its version.

import { get } from "./api.js";
import { showModelCard } from "./components/model_card.js";
import { currentText } from "./current_text.js";
import { fill } from "./dom.js";

const PAUSE_MS = 1000;

// Returns the models; while servers load them, waits and calls `waits` with a message.
export async function loadModels(waits = (_message) => {}) {
  for (;;) {
    try {
      const { data } = await get("v1/models");
      waits("");
      const [current] = (currentText()?.model ?? "").split(":");
      showModelCard(data.find(({ id }) => id === current) ?? data[0]);
      return data;
    } catch (error) {
      if (error.code !== "model_loading") throw error;
      waits("The model is being loaded…");
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

export class ModelChoice {
  #models = [];
  #name;
  #version;

  // `name` and `version` are <select> elements; `changed` is called when another one is selected.
  constructor(name, version, changed) {
    this.#name = name;
    this.#version = version;
    name.addEventListener("change", () => {
      this.#showVersions("");
      changed();
    });
    version.addEventListener("change", changed);
  }

  // The model field of a request: "demo", or "demo:2".
  get reference() {
    return this.#version.value ? `${this.#name.value}:${this.#version.value}` : this.#name.value;
  }

  // The object of /v1/models; undefined if it is not served.
  get model() {
    return this.#models.find(({ id }) => id === this.#name.value);
  }

  // Shows the models and selects the previous one, or `reference`, even if it is not served.
  show(models, reference = this.reference) {
    this.#models = models;
    const [name, version] = (reference || models[0]?.id || "").split(":");
    const isGone = name && !models.some((model) => model.id === name);
    fill(this.#name, [...(isGone ? [[name, `${name} (not served)`]] : []), ...models.map(({ id }) => [id, id])], name);
    this.#showVersions(version ?? "");
  }

  #showVersions(chosen) {
    const versions = (this.model?.versions ?? []).map(({ version, labels }) => [String(version), [version, ...labels].join(" · ")]);
    const isListed = !chosen || versions.some(([version]) => version === chosen);
    const other = isListed ? [] : [[chosen, `${chosen} (not served)`]];
    // With one version there is no choice.
    this.#version.closest("label").hidden = versions.length < 2 && !chosen;
    fill(this.#version, [["", "default version"], ...other, ...versions], chosen);
  }
}
