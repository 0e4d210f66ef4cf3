// What a training run of some minutes can reach. Rates and losses of plays are from docs/benchmarks.md, on two idle cores,
// the rate of the first recipe times 0.9 for its shorter windows. Losses of smaller texts are from
// benchmarks.fine_tuning, from scratch and fine-tuned, with 256 units.

import { count } from "./format.js";

// Recipes by minutes; the last validation takes the rest of a preset's time. The units of the first two depend on the text
// and the CPU; tokens/s are those of the most.
const PRESETS = {
  1: { recipe: "characters-3-minutes", maxMinutes: 0.9, units: "256 to 512", tokensPerS: 37_400, aim: "A first impression" },
  3: { recipe: "characters-3-minutes", maxMinutes: 2.9, units: "384 or 512", tokensPerS: 37_400, aim: "Enough for most texts" },
  20: { recipe: "characters", maxMinutes: 19.8, units: 1024, tokensPerS: 16_762, aim: "Twice the units, a lower loss" },
};
// As in export/config.py.
const [HELD_OUT, MAX_HELD_OUT] = [0.1, 500_000];
const [MIN_CHARACTERS_OF_LARGER_RECIPES, MAX_PASSES] = [250_000, 120];

// The preset of some minutes for a text; a short one has the first recipe, as a larger model would memorize it.
export function presetFor(minutes, numCharacters) {
  const preset = PRESETS[minutes];
  if (!(numCharacters < MIN_CHARACTERS_OF_LARGER_RECIPES) || preset.recipe === PRESETS[3].recipe) return preset;
  return { ...PRESETS[3], maxMinutes: preset.maxMinutes, aim: "More passes, a lower loss" };
}

// The maximum number of times that a preset reads a text, as a sentence.
export function passes({ maxMinutes, tokensPerS }, numCharacters) {
  const minutesOfOne = (numCharacters - Math.min(HELD_OUT * numCharacters, MAX_HELD_OUT)) / tokensPerS / 60;
  const number = Math.min(maxMinutes / minutesOfOne, MAX_PASSES);
  if (number < 1) return `One pass over this text takes ${Math.ceil(minutesOfOne)} minutes or more: the model reads only a part of it.`;
  return `Up to ${number < 10 ? number.toFixed(1) : count(Math.round(number))} passes over this text.`;
}

export function outlook(numCharacters) {
  if (numCharacters < 50_000) {
    return "A small text, soon memorized; the best epoch is published. 10,000 to 50,000 characters of prose reached 2.3 to 2.2 nats per character, names 2.4 to 2.3, an access log 0.4. Continuing from a model of the same language gained 0.3 to 0.4 for prose.";
  }
  if (numCharacters < 500_000) {
    return "Enough for words and layout; more text would help more than more minutes. 50,000 to 300,000 characters of prose reached 2.2 to 2.0 nats per character, and 1.8 to 1.7 when they continued from a model of the same language.";
  }
  if (numCharacters < 3_000_000) {
    return "Enough to read well: English plays of 1.1 million characters reached a loss of 1.40 nats per character after seven passes, in some 3 minutes, and 1.36 after 19, in 20.";
  }
  return "Plenty: English plays of 5 million characters reached a loss of 1.29 nats per character in 3 minutes.";
}
