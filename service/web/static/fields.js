// Sampling parameters and structured outputs: name in the API, label, limits, default and help text.

export const SAMPLING_FIELDS = [
  {
    name: "temperature", label: "Temperature", kind: "range", min: 0, max: 2, step: 0.05, value: 0.5, isMain: true,
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
    name: "max_tokens", label: "Max tokens", kind: "number", min: 1, step: 1, value: 400, isMain: true,
    help: "Maximum number of tokens to generate; Continue generates as many again.",
  },
  {
    name: "seed", label: "Seed", kind: "number", min: -Number.MAX_SAFE_INTEGER, max: Number.MAX_SAFE_INTEGER, value: "", isMain: true,
    help: "The same seed reproduces the same text. Empty: a random seed, shown below the text.",
  },
  {
    name: "stop", label: "Stop", kind: "text", value: "",
    help: "Stop string: generation stops before it. \\n is a line feed.",
  },
];

// Values of the sampling parameters, by name.
export const PRESETS = {
  safe: { temperature: 0.5, min_p: 0 },
  lively: { temperature: 0.8, min_p: 0.1 },
  wild: { temperature: 1.1, min_p: 0 },
};

// What a completion must match. `pattern` selects one of the three fields that name it; only this one is shown and
// sent. Fields with `isMember` are members of the API's structured_outputs.
export const CONSTRAINT_FIELDS = [
  {
    name: "pattern", label: "Pattern", kind: "select", value: "",
    options: [["", "None"], ["regex", "Regular expression"], ["choice", "One of several strings"], ["json", "JSON Schema"]],
    help: "The whole completion must match it.",
  },
  {
    name: "regex", label: "Regular expression", kind: "regex", value: "", pattern: "regex", isMember: true,
    help: "For example [A-Z][a-z]+ of [A-Z][a-z]+\\. No anchors, look-around or backreferences. \\n is a line feed.",
  },
  {
    name: "choice", label: "Texts", kind: "lines", rows: 4, value: "", pattern: "choice", isMember: true,
    help: "One per line. \\n is a line feed.",
  },
  {
    name: "json", label: "JSON Schema", kind: "json", rows: 6, value: "", pattern: "json", isMember: true,
    help: "For example {\"type\": \"array\", \"items\": {\"type\": \"integer\"}}. The model's vocabulary must contain the characters that the schema requires.",
  },
  {
    name: "allowed_characters", label: "Allowed characters", kind: "text", value: "", isMember: true,
    help: "The completion contains only these. Empty: any. \\n is a line feed.",
  },
  {
    name: "banned_characters", label: "Banned characters", kind: "text", value: "", isMember: true,
    help: "The completion contains none of these. \\n is a line feed.",
  },
  {
    name: "min_length", label: "Min length", kind: "number", min: 0, max: 10000, step: 1, value: "",
    help: "Minimum number of characters.",
  },
];

// The constraint fields that apply to a request, in their order.
export function constraintsOf(values) {
  return CONSTRAINT_FIELDS.filter(({ name, pattern }) => name !== "pattern" && (pattern ? pattern === values.pattern : values[name]));
}

// The fields of a request, without empty ones, except a pattern's, as the server explains what it lacks. Parameters at
// their defaults are omitted, too, except the main ones, whose defaults on this page differ from the API's.
export function requestFields(values) {
  const fields = Object.keys(values.labels ?? {}).length ? { labels: values.labels } : {};
  const members = {};
  for (const { name, kind, isMain, value } of SAMPLING_FIELDS) {
    const given = values[name] || String(value);
    if (given !== "" && (isMain || given !== String(value))) fields[name] = parsed(kind, given);
  }
  for (const { name, kind, isMember } of constraintsOf(values)) {
    (isMember ? members : fields)[name] = parsed(kind, values[name]);
  }
  return Object.keys(members).length ? { ...fields, structured_outputs: members } : fields;
}

function parsed(kind, value) {
  if (kind === "regex" || kind === "json") return value;
  if (kind === "lines") return value.split("\n").filter((line) => line).map(unescaped);
  return kind === "text" ? unescaped(value) : Number(value);
}

function unescaped(text) {
  return text.replaceAll("\\n", "\n");
}
