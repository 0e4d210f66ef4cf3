// Sampling parameters: name in the API, label, limits, default and help text.

export const FIELDS = [
  {
    name: "temperature", label: "Temperature", kind: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    help: "0: greedy decoding. 1: the model's own distribution. Higher: more random.",
  },
  {
    name: "top_p", label: "Top p", kind: "range", min: 0, max: 1, step: 0.01, value: 1,
    help: "Sample from the most probable tokens whose probabilities add up to this.",
  },
  {
    name: "top_k", label: "Top k", kind: "range", min: 0, max: 100, step: 1, value: 0,
    help: "Sample from this many of the most probable tokens; 0: from all.",
  },
  {
    name: "min_p", label: "Min p", kind: "range", min: 0, max: 1, step: 0.01, value: 0,
    help: "Exclude tokens below this fraction of the highest probability.",
  },
  {
    name: "repetition_penalty", label: "Repetition penalty", kind: "range", min: 0.5, max: 2, step: 0.05, value: 1,
    help: "Above 1: tokens of the prompt and of the generated text become less probable. 1: off.",
  },
  {
    name: "frequency_penalty", label: "Frequency penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0,
    help: "Subtracted from the logit of a token each time it has been generated.",
  },
  {
    name: "presence_penalty", label: "Presence penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0,
    help: "Subtracted once from the logit of each token that has been generated.",
  },
  {
    name: "max_tokens", label: "Max tokens", kind: "range", min: 1, max: 2000, step: 1, value: 200,
    help: "Maximum number of generated tokens.",
  },
  {
    name: "seed", label: "Seed", kind: "number", value: "",
    help: "The same seed reproduces the same text. Empty: a random seed, shown below the text.",
  },
  {
    name: "stop", label: "Stop", kind: "text", value: "",
    help: "Stop string: generation stops before it. \\n is a line feed.",
  },
];

// The fields of a request, without empty ones.
export function requestFields(values) {
  const fields = {};
  for (const { name, kind } of FIELDS) {
    const value = values[name];
    if (value === "" || value === undefined) continue;
    if (kind === "text") fields[name] = value.replaceAll("\\n", "\n");
    else fields[name] = Number(value);
  }
  return fields;
}
