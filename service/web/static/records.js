// Records of JSON Lines and CSV: the text of each, as the trainer reads it.

// The texts of records, and the problem of the first record that is malformed.
export function readRecords(text, format) {
  return format === "csv" ? csvRecords(text) : jsonRecords(text);
}

// The records of a file by its name, for a report: texts, rows of a table as objects, or lines.
export function recordsOf(text, name) {
  const plain = text.replace(/^\ufeff/, "").replaceAll("\r\n", "\n");
  const lines = plain.split("\n").filter((line) => line.trim());
  if (/\.csv$/i.test(name)) {
    const { texts, problem } = csvRecords(plain);
    if (!problem) return texts;
    const [header = [], ...rows] = csvRows(plain);
    return rows.map((row) => Object.fromEntries(header.map((column, place) => [column, row[place] ?? ""])));
  }
  if (!/\.jsonl$/i.test(name)) return lines;
  const { texts, problem } = jsonRecords(plain);
  if (!problem) return texts;
  // What `sostenuto batch` wrote has its texts in responses; other objects are rows.
  const objects = lines.map((line) => parsed(line) ?? {});
  return objects.some(({ response }) => response) ? objects.flatMap(({ response }) => (response?.body?.choices ?? []).map((choice) => choice.text)) : objects;
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
  const [header = [], ...rows] = csvRows(text);
  const names = header.includes("text") ? ["text"] : ["prompt", "completion"];
  const places = names.map((name) => header.indexOf(name));
  if (places.includes(-1)) return { texts: [], problem: problem(1, `names ${header.slice(0, 5).join(", ") || "nothing"}`) };
  return { texts: rows.map((row) => places.map((place) => row[place] ?? "").join("")) };
}

function problem(line, found) {
  return `Records need a field text, or prompt and completion; line ${line} ${found}.`;
}

// Rows of fields, RFC 4180: a quoted field may have commas, line breaks and doubled quotation marks.
function csvRows(text) {
  const rows = [];
  let row = [];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\n]*))(,|\n|$)/g)) {
    row.push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === ",") continue;
    if (row.length > 1 || row[0]) rows.push(row);
    row = [];
  }
  return rows;
}
