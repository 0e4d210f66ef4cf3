// A text's properties for training: size, characters, documents, duplicates, order and license. Without page elements.

import { readRecords } from "./records.js";

// The trainer refuses shorter texts: a model would only memorize them.
export const MIN_CHARACTERS = 1000;
const SCRIPTS = ["Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Han", "Hiragana", "Hangul", "Thai"];
const SCRIPT_SAMPLE = 20_000;
// Characters this rare cannot be learned.
const RARE = 2;
// With fewer words on average, lines are a list; see `isCompared`.
const LIST_WORDS = 4;
const LONG_LINE = 30;
const SORTED_SHARE = 0.95;
const SINGLE = "One document is too few: the model is evaluated on documents that are held out.";
const NAMES = {
  0x00: "zero character", 0x09: "tab", 0x0b: "vertical tab", 0x0c: "form feed", 0xa0: "no-break space", 0xad: "soft hyphen", 0x200b: "zero width space",
  0x200c: "zero width non-joiner", 0x200d: "zero width joiner", 0x200e: "left-to-right mark", 0x200f: "right-to-left mark", 0x2028: "line separator",
  0x2029: "paragraph separator", 0x202f: "narrow no-break space", 0xfeff: "byte order mark",
  0xfffd: "replacement character: the text was decoded in a wrong encoding",
};
const GUTENBERG_START = /^\*\*\* ?START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*$/im;
const GUTENBERG_END = /^(?:\*\*\* ?END OF (?:THE|THIS) PROJECT GUTENBERG|End of (?:the )?Project Gutenberg)[^\n]*$/im;

// Describes a text whose line breaks are line feeds. `format` is that of its records, `files` are the texts of an archive;
// `documents`, how it is split, is guessed if not given.
export function describe({ text, format = null, files = null, documents: chosen = null }) {
  const records = format && readRecords(text, format);
  const body = records ? records.texts.join("\n") : text;
  const lines = body.split("\n").filter((line) => line.trim());
  const documents = records ? "records" : chosen ?? (files?.length > 1 ? "file" : guessDocuments(lines, body));
  const items = itemsOf(documents, { lines, body, texts: records?.texts ?? files ?? [text] });
  const isSingle = documents !== "none" && items.length === 1;
  return {
    ...countCharacters(body),
    script: scriptOf(body),
    numLines: lines.length,
    documents,
    numDocuments: documents === "none" ? 1 : items.length,
    duplicates: duplicatesOf(items, documents),
    isSorted: documents !== "none" && isSorted(items),
    problem: records?.problem ?? (isSingle ? SINGLE : null),
    unread: records?.unread ?? [],
    hasLicense: !records && !files && licenseFree(text) !== text,
  };
}

// What may repeat or be sorted: the documents, and the lines of a running text.
function itemsOf(documents, { lines, body, texts }) {
  if (documents === "none" || documents === "lines") return lines;
  return documents === "blank-line" ? body.split(/\n[ \t]*(?:\n[ \t]*)+/).filter((part) => part.trim()) : texts;
}

// The numbers of characters and of distinct ones, and those that are unusual or rare: [{ character, count }].
function countCharacters(text) {
  // Over code points: with a map of characters, 30 MB take seconds.
  const counts = new Uint32Array(0x110000);
  let numCharacters = 0;
  for (let i = 0; i < text.length; numCharacters += 1) {
    const code = text.codePointAt(i);
    counts[code] += 1;
    i += code > 0xffff ? 2 : 1;
  }
  const all = [];
  counts.forEach((count, code) => count && all.push({ character: String.fromCodePoint(code), count }));
  const isUnusual = ({ character }) => /[\p{C}\p{Zl}\p{Zp}\ufffd\u00a0\u202f]/u.test(character) && character !== "\n";
  return {
    numCharacters,
    numDistinct: all.length,
    unusual: all.filter(isUnusual).map((each) => ({ ...each, name: nameOf(each.character) })),
    rare: all.filter((each) => each.count <= RARE && !isUnusual(each)),
  };
}

function nameOf(character) {
  const code = character.codePointAt(0);
  const point = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
  return NAMES[code] ? `${point} ${NAMES[code]}` : point;
}

// The script of most letters; null without letters.
function scriptOf(text) {
  const sample = text.slice(0, SCRIPT_SAMPLE);
  const counts = SCRIPTS.map((script) => [sample.match(new RegExp(`\\p{Script=${script}}`, "gu"))?.length ?? 0, script]);
  const [count, script] = counts.sort(([one], [other]) => other - one)[0];
  return count ? script : null;
}

// Lists of names, words or molecules have few words per line, and log lines share a prefix; neither has blank lines.
function guessDocuments(lines, text) {
  if (lines.length < 20 || text.split("\n").length > 1.1 * lines.length + 2) return "none";
  const words = lines.reduce((sum, line) => sum + line.trim().split(/\s+/).length, 0) / lines.length;
  const isLog = lines.filter((line) => /^[\d[{]/.test(line)).length >= 0.8 * lines.length;
  return words <= LIST_WORDS || isLog ? "lines" : "none";
}

// In running text only long lines are compared: short ones, such as the names of speakers, repeat in any.
const isCompared = (item, documents) => documents !== "none" || item.length >= LONG_LINE;

// The number of items that repeat an earlier one, and the most frequent.
function duplicatesOf(items, documents) {
  const counts = new Map();
  for (const item of items) {
    if (isCompared(item, documents)) counts.set(item, (counts.get(item) ?? 0) + 1);
  }
  let [count, example, most] = [0, "", 1];
  for (const [item, times] of counts) {
    count += times - 1;
    if (times > most) [example, most] = [item, times];
  }
  return { count, example, most };
}

function isSorted(items) {
  if (items.length < 20) return false;
  const compare = new Intl.Collator("en").compare;
  const isAfter = (one, other) => one <= other || compare(one, other) <= 0;
  const inOrder = items.slice(1).filter((item, i) => isAfter(items[i], item)).length;
  return inOrder >= SORTED_SHARE * (items.length - 1);
}

// The text between the marks of Project Gutenberg's license; all of it without marks.
export function licenseFree(text) {
  const start = GUTENBERG_START.exec(text);
  const begun = start ? text.slice(start.index + start[0].length) : text;
  const end = GUTENBERG_END.exec(begun);
  return start || end ? begun.slice(0, end?.index).trim() + "\n" : text;
}

// The text without the lines that `duplicatesOf` counts.
export function withoutDuplicates(text, documents) {
  const seen = new Set();
  const isKept = (line) => !line.trim() || !isCompared(line, documents) || (!seen.has(line) && seen.add(line));
  return text.split("\n").filter(isKept).join("\n");
}
