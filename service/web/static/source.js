// The text to train on, pasted, dropped or chosen, and the page's notes on it.

import { attempt } from "./attempt.js";
import { MIN_CHARACTERS, describe, licenseFree, withoutDuplicates } from "./corpus.js";
import { button, findAll, make } from "./dom.js";
import { beginning, count, visible } from "./format.js";
import { formatOf } from "./records.js";
import { decode, readText } from "./text_file.js";
import { unzip } from "./zip.js";

const [area, text, chosen, filename, preview, remove, choose, file] = findAll(["source", "text", "chosen", "filename", "preview", "remove", "choose", "file"]);
const [found, numbers, notes] = findAll(["found", "numbers", "notes"]);
// Longer texts stay outside the text field: with a million characters in it, Chromium does not respond for a minute.
const MAX_EDITED = 50_000;
const PAUSE_MS = 250;
const SHOWN = 600;
const NAMED = 8;
// Minimum number of repeated lines of a running text, such as page titles, to mention.
const WORTH_NAMING = 5;
const NOUNS = { none: "lines", lines: "lines", "blank-line": "paragraphs", file: "files", records: "records" };

export class Source {
  // { text, documents, format, files } as for `describe`; `title` if it is not in the text field; for a file also its
  // `name` and its original bytes, `blob`.
  #given = { text: "" };
  #changed;
  #timer = 0;
  // Number of texts given so far: a file that is read late is not the last one.
  #count = 0;

  // `changed` is called with the description of another text, or null.
  constructor(changed) {
    this.#changed = changed;
    // Not immediately on "change": the description moves Start between mouse-down, which ends the change, and mouse-up.
    for (const type of ["input", "change"]) {
      text.addEventListener(type, () => {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.describe(), PAUSE_MS);
      });
    }
    text.addEventListener("paste", (event) => this.#paste(event));
    choose.addEventListener("click", () => file.click());
    file.addEventListener("change", () => file.files.length && this.#open(file.files[0]));
    remove.addEventListener("click", () => {
      this.#showPasted(text.value);
      this.focus();
    });
    // Dropped elsewhere, a file would replace the page.
    for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, (event) => this.#drag(event));
    if (text.value) this.#showPasted(text.value);
  }

  // Returns the description of the text after its last change; null if there is none.
  describe() {
    if (!this.#given.title && text.value !== this.#given.text) this.#showPasted(text.value, this.#given.documents);
    return this.#given.description;
  }

  // Splits the text into other documents.
  divide(documents) {
    this.#show({ ...this.#given, documents });
  }

  // Moves the focus to the field to fill in.
  focus() {
    (this.#given.title ? choose : text).focus();
  }

  // The upload: the same object until the text is changed. `name` is that of a pasted text.
  upload(name) {
    const given = this.#given;
    given.blob ??= new Blob([given.text]);
    given.uploaded ??= { blob: given.blob, name: given.name ?? `${name}.${given.format ?? "txt"}` };
    return given.uploaded;
  }

  #drag(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    area.classList.toggle("dragged", event.type === "dragover");
    if (event.type === "drop" && event.dataTransfer.files.length) this.#open(event.dataTransfer.files[0]);
  }

  #open(blob) {
    const mine = ++this.#count;
    return attempt(async () => {
      file.value = "";
      const suffix = /\.(jsonl|csv|zip)$/i.exec(blob.name)?.[1].toLowerCase();
      const isArchive = suffix === "zip";
      const files = isArchive ? (await unzip(blob)).map(({ name, bytes }) => withLineFeeds(decode(bytes, name))) : null;
      const content = files?.join("\n") ?? withLineFeeds(await readText(blob));
      if (mine !== this.#count) return;
      this.#show({ text: content, title: blob.name, name: blob.name, blob, format: isArchive ? null : suffix ?? null, files });
    });
  }

  #paste(event) {
    const pasted = event.clipboardData.getData("text/plain");
    if (pasted.length <= MAX_EDITED) return;
    event.preventDefault();
    const whole = text.value.slice(0, text.selectionStart) + pasted + text.value.slice(text.selectionEnd);
    this.#show({ text: withLineFeeds(whole), title: "Pasted text", format: formatOf(whole), files: null });
  }

  // Shows the text of the field; `documents` are those that were chosen for it.
  #showPasted(value, documents = undefined) {
    clearTimeout(this.#timer);
    this.#show({ text: value, format: formatOf(value), files: null, documents });
  }

  #show(given) {
    this.#count += 1;
    given.description = given.text.trim() ? describe(given) : null;
    this.#given = given;
    [text.hidden, chosen.hidden] = [Boolean(given.title), !given.title];
    filename.textContent = given.title ?? "";
    preview.textContent = given.title ? beginning(given.text, SHOWN) : "";
    found.hidden = !given.description;
    if (given.description) this.#explain(given.description);
    this.#changed(given.description, given.name);
  }

  // Replaces the text by another one, split into the same documents; that of an archive becomes one file.
  #replace(changed) {
    const { title, name, format, documents } = this.#given;
    if (title) {
      this.#show({ text: changed, title, name: name?.replace(/\.zip$/i, ".txt"), format, files: null, documents });
    } else {
      text.value = changed;
      this.#showPasted(changed, documents);
    }
    this.focus(); // the button that was pressed is gone
  }

  #explain(it) {
    const documents = it.documents === "none" ? "1, a running text" : countOf(it.documents, it.numDocuments);
    const facts = [["Characters", count(it.numCharacters)], ["Lines", count(it.numLines)], ["Distinct characters", count(it.numDistinct)], ["Script", it.script ?? "no letters"], ["Documents", documents]];
    numbers.replaceChildren(...facts.map(([name, value]) =>
      make("div", {}, make("dt", { textContent: name }), make("dd", { textContent: value }))));
    const said = [...problems(it), ...this.#license(it), ...this.#duplicates(it), ...unread(it), ...order(it), ...characters(it)];
    notes.replaceChildren(...said.map(([sentence, isWarning, action]) =>
      make("li", { className: isWarning ? "warning" : "" }, sentence, ...(action ? [" ", action] : []))));
  }

  #license({ hasLicense }) {
    if (!hasLicense) return [];
    const clean = button("Remove it", "Remove the license of Project Gutenberg", () => this.#replace(licenseFree(this.#given.text)));
    return [["The license of Project Gutenberg is part of the text. The model would learn it.", true, clean]];
  }

  #duplicates({ duplicates, documents }) {
    const { count: repeated, example, most } = duplicates;
    if (!repeated || (documents === "none" && repeated < WORTH_NAMING)) return [];
    const sentence = `${countOf(documents, repeated)} ${repeated === 1 ? "repeats" : "repeat"} an earlier one; “${beginning(visible(example).replaceAll("␣", " "), 60)}” occurs ${count(most)} times. Repeated text is soon memorized.`;
    const canRemove = documents === "none" || documents === "lines";
    const clean = () => this.#replace(withoutDuplicates(this.#given.text, documents));
    return [[sentence, true, canRemove ? button("Remove the repeated lines", "", clean) : null]];
  }
}

function countOf(documents, number) {
  return `${count(number)} ${number === 1 ? NOUNS[documents].slice(0, -1) : NOUNS[documents]}`;
}

function withLineFeeds(content) {
  return content.replaceAll("\r\n", "\n").replaceAll("\r", "\n");
}

function problems({ problem, numCharacters }) {
  const isShort = numCharacters < MIN_CHARACTERS;
  return [
    ...(problem ? [[problem, true]] : []),
    ...(isShort ? [[`${count(numCharacters)} characters are too few: at least ${count(MIN_CHARACTERS)} are required, and 50,000 or more give a model worth reading.`, true]] : []),
  ];
}

function unread({ unread: columns }) {
  if (!columns.length) return [];
  return [[`${columns.length === 1 ? "Column" : "Columns"} ${columns.join(", ")} ${columns.length === 1 ? "is" : "are"} not read. To train on labels, use sostenuto train --label-column.`, false]];
}

function order({ documents, isSorted }) {
  if (!isSorted) return [];
  return [[`The ${NOUNS[documents]} are sorted. The trainer shuffles documents, so those that it holds out for validation are a fair sample.`, false]];
}

function characters({ unusual, rare }) {
  const list = (found, name) => found.slice(0, NAMED).map(name).join(", ") + (found.length > NAMED ? ", …" : "");
  return [
    ...(unusual.length ? [[`Unusual characters: ${list(unusual, (each) => `${each.name} (${count(each.count)})`)}.`, true]] : []),
    ...(rare.length ? [[`${count(rare.length)} ${rare.length === 1 ? "character occurs" : "characters occur"} only once or twice, too seldom to be learned: ${list(rare, ({ character }) => visible(character))}`, false]] : []),
  ];
}
