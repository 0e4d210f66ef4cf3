// Records of JSON Lines and CSV: the text of each, as the trainer reads it.

import { Failure } from "./api.js";
import { beginning } from "./format.js";

// The texts of records, and the problem of the first malformed record.
export function readRecords(text, format) {
  return format === "csv" ? csvRecords(text) : jsonRecords(text);
}

// The records of a file by its name, for a report, as `sostenuto report` reads them: texts, or rows of a table. `columns`
// are those of a training table in CSV; if null, rows of CSV are lines, which `columns` of the request parses.
export function recordsOf(text, name, columns = null, isTraining = false) {
  if (/\.csv$/i.test(name)) return csvTable(plain(text), name, columns);
  const lines = plain(text).split("\n");
  return /\.(jsonl|ndjson)$/i.test(name) ? jsonTable(lines, name, isTraining) : lines.filter((line) => line.trim());
}

// The columns of a table in CSV; null for any other file.
export function columnsOf(text, name) {
  if (!/\.csv$/i.test(name) || !csvRecords(plain(text)).problem) return null;
  return csvRows(plain(text)).rows[0] ?? null;
}

const plain = (text) => text.replace(/^\ufeff/, "").replaceAll("\r\n", "\n");

// A row with too many or too few cells is kept, and so is invalid.
function csvTable(text, name, columns) {
  const { rows: [header = [], ...rows], misquoted } = csvRows(text);
  if (misquoted) throw new Failure(`${name}: ${misquotedProblem(misquoted)}`);
  const { texts, problem } = csvRecords(text);
  if (!problem) return texts;
  const isWhole = (row) => row.length === header.length;
  if (!columns) {
    const fields = (row) => Object.fromEntries(header.map((column, place) => [column, row[place]]));
    return rows.every(isWhole) ? rows.map(fields) : rows.map((row) => (isWhole(row) ? pythonJson(fields(row)) : csvLine(row)));
  }
  const places = columns.map((column) => header.indexOf(column));
  if (places.includes(-1)) return [header, ...rows].map(csvLine); // it has no header
  return rows.map((row) => csvLine(isWhole(row) ? places.map((place) => row[place]) : row));
}

function jsonTable(lines, name, isTraining) {
  const values = lines.map(parsed);
  const first = values.find(Boolean);
  // The output of `sostenuto batch` has its texts in responses; other objects without a text are rows.
  const isBatch = first && (first.response || ("custom_id" in first && "error" in first));
  if (first && !isBatch && textOf(first) !== null) {
    const { texts, problem } = jsonRecords(lines.join("\n"));
    if (problem) throw new Failure(`${name}: ${problem}`);
    return texts;
  }
  if (!first) return lines.flatMap((line, place) => (line.trim() ? [stringOf(line, name, place + 1)] : []));
  const malformed = lines.findIndex((line, place) => line.trim() && !values[place]);
  if (malformed >= 0 && (isBatch || isTraining)) throw new Failure(`${name}: line ${malformed + 1} is not a JSON object.`);
  if (isBatch) return values.flatMap((value) => (value?.response?.body?.choices ?? []).map((choice) => choice.text));
  if (malformed < 0) return values.filter(Boolean);
  return lines.flatMap((line, place) => (line.trim() ? [values[place] ? pythonJson(values[place]) : line] : []));
}

function stringOf(line, name, number) {
  try {
    const value = JSON.parse(line);
    if (typeof value === "string") return value;
  } catch {}
  throw new Failure(`${name}: line ${number} is neither a JSON object nor a string.`);
}

// JSON in the server's spelling of an object, to compare records.
function pythonJson(value) {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, field]) => `${JSON.stringify(name)}: ${pythonJson(field)}`).join(", ")}}`;
}

function csvLine(row) {
  return row.map((value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value)).join(",");
}

// The format of a pasted text: "jsonl", "csv", or null for plain text.
export function formatOf(text) {
  const [first = "", second = ""] = text.slice(0, 100_000).trimStart().split("\n");
  if (first.startsWith("{") && textOf(parsed(first)) !== null) return "jsonl";
  const columns = first.trim().split(",");
  const isHeader = columns.includes("text") ? columns.length > 1 : columns.includes("prompt") && columns.includes("completion");
  return isHeader && second.includes(",") ? "csv" : null;
}

function jsonRecords(text) {
  const texts = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; i += 1) {
    if (!lines[i].trim()) continue;
    const record = parsed(lines[i]);
    const found = textOf(record);
    if (found === null) return { texts, problem: problem(i + 1, record === null ? "is not a JSON object" : "lacks them") };
    texts.push(found);
  }
  return { texts };
}

function parsed(line) {
  try {
    const record = JSON.parse(line);
    return record && typeof record === "object" && !Array.isArray(record) ? record : null;
  } catch {
    return null;
  }
}

// The text of a record; null if it has none.
function textOf(record) {
  const values = record?.text !== undefined ? [record.text] : [record?.prompt, record?.completion];
  return values.every((value) => typeof value === "string") ? values.join("") : null;
}

function csvRecords(text) {
  const { rows: [header = [], ...rows], misquoted } = csvRows(text);
  const names = header.includes("text") ? ["text"] : ["prompt", "completion"];
  const places = names.map((name) => header.indexOf(name));
  if (places.includes(-1)) return { texts: [], problem: problem(1, `names ${header.slice(0, 5).join(", ") || "nothing"}`) };
  const texts = rows.map((row) => places.map((place) => row[place] ?? "").join(""));
  const longer = rows.find((row) => row.slice(header.length).some(Boolean));
  const wrong = misquoted ? misquotedProblem(misquoted) : longer && tooLongProblem(longer, header);
  return { texts, unread: header.filter((name) => !names.includes(name)), ...(wrong && { problem: wrong }) };
}

function problem(line, found) {
  return `Records need a field text, or prompt and completion; line ${line} ${found}.`;
}

function misquotedProblem(line) {
  return `A field in quotation marks must end with one before a comma or the end of a line; that of line ${line} does not.`;
}

function tooLongProblem(row, header) {
  return `A record must have ${header.length} fields, as the first line; “${beginning(row.join(","), 60)}” has ${row.length}. A field with a comma must be in quotation marks.`;
}

// Rows of fields, RFC 4180: a quoted field may have commas, line breaks and doubled quotation marks. They end before a
// field whose quotation marks do not match; its line is `misquoted`.
function csvRows(text) {
  const rows = [];
  let row = [];
  // All characters between two quotation marks at once: one by one, a field of some millions overflows the stack.
  for (const { index, 1: quoted, 2: plain, 3: end } of text.matchAll(/(?:"([^"]*(?:""[^"]*)*)"|([^,\n]*))(,|\n|$)/g)) {
    if (plain?.startsWith('"')) return { rows, misquoted: text.slice(0, index).split("\n").length };
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === ",") continue;
    if (row.length > 1 || row[0]) rows.push(row);
    row = [];
  }
  return { rows };
}
