// What can be set for a text: names as the API has them, bounds, and what each means.

export const FIELDS = [
  {
    name: "temperature", label: "Temperature", kind: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    help: "0 always takes the likeliest token; 1 draws as the model says; above 1 is bolder than the model.",
  },
  {
    name: "top_p", label: "Top p", kind: "range", min: 0, max: 1, step: 0.01, value: 1,
    help: "Draw only among the likeliest tokens that together have this probability.",
  },
  {
    name: "top_k", label: "Top k", kind: "range", min: 0, max: 100, step: 1, value: 0,
    help: "Draw only among so many of the likeliest tokens; 0 is all of them.",
  },
  {
    name: "min_p", label: "Min p", kind: "range", min: 0, max: 1, step: 0.01, value: 0,
    help: "Drop tokens that are less likely than this times the likeliest.",
  },
  {
    name: "repetition_penalty", label: "Repetition penalty", kind: "range", min: 0.5, max: 2, step: 0.05, value: 1,
    help: "Above 1 makes tokens that have occurred less likely, those of the prompt too; 1 is off.",
  },
  {
    name: "frequency_penalty", label: "Frequency penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0,
    help: "Taken off a token for each time that it was written.",
  },
  {
    name: "presence_penalty", label: "Presence penalty", kind: "range", min: -2, max: 2, step: 0.1, value: 0,
    help: "Taken off every token that was written at all.",
  },
  {
    name: "max_tokens", label: "Tokens", kind: "range", min: 1, max: 2000, step: 1, value: 200,
    help: "How many tokens to write at most.",
  },
  {
    name: "seed", label: "Seed", kind: "number", value: "",
    help: "The same seed writes the same text, to the byte. Empty: a new one is drawn, and shown below the text.",
  },
  {
    name: "stop", label: "Stop before", kind: "text", value: "",
    help: "The text ends before this; \\n stands for a line's end.",
  },
];

// The fields of a request, without those that are off.
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
