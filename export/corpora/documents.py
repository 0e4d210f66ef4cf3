"""Splitting of streamed text into documents, separated by a zero character, and of JSON Lines and CSV into records."""

import csv
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from export.errors import CorpusError

Documents = Literal["none", "file", "lines", "blank-line", "records"]
# Suffixes of files that are split into records by default.
RECORDS = (".jsonl", ".csv")

# Document separator. It occurs in no text: bytes that contain it are rejected as binary.
SEPARATOR = "\0"
_BETWEEN_PARAGRAPHS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
TEXT, PROMPT, COMPLETION = "text", "prompt", "completion"
# Characters of a line of JSON or a field of CSV.
MAX_RECORD_CHARACTERS = 16 * 2**20
MAX_LABEL_CHARACTERS = 100
# Fields of records that an error lists.
MAX_FIELDS = 30
_FIELDS = f"the field {TEXT}, or {PROMPT} and {COMPLETION}"
_HINT = "; --documents none reads any text"


def separate_documents(texts: Iterable[Iterable[str]], documents: Documents) -> Iterator[str]:
    """Yield the parts of all texts, with `SEPARATOR` between documents. Blank documents are still included.

    `none` joins all texts into one running text by line feeds, `file` and `records` make each text a document, `lines`
    each line, `blank-line` each paragraph.
    """
    for count, parts in enumerate(texts):
        if count:
            yield "\n" if documents == "none" else SEPARATOR
        if documents == "lines":
            yield from (part.replace("\n", SEPARATOR) for part in parts)
        elif documents == "blank-line":
            yield from _separate_paragraphs(parts)
        else:
            yield from parts


def _separate_paragraphs(parts: Iterable[str]) -> Iterator[str]:
    """Replace blank lines by `SEPARATOR`, and strip a line feed before the first paragraph and after the last."""
    buffer, has_begun = "", False
    for part in parts:
        text = buffer + part
        # Trailing white space with a line break may be the start of a paragraph break that continues in the next part.
        cut = text.find("\n", len(text.rstrip(" \t\n")))
        complete, buffer = (text, "") if cut < 0 else (text[:cut], text[cut:])
        if complete:
            separated = _BETWEEN_PARAGRAPHS.sub(SEPARATOR, complete)
            yield separated if has_begun else separated.removeprefix("\n")
            has_begun = True
    yield _BETWEEN_PARAGRAPHS.sub(SEPARATOR, buffer).removesuffix("\n")


class RecordReader:
    """Reads the records of JSON Lines and CSV, and collects their labels.

    Attributes:
        labels: For each label column the labels of the records so far whose text is not blank; "" where there is none.
        fields: Names of the fields of the records so far, `MAX_FIELDS` or some more.
    """

    def __init__(self, label_columns: Iterable[str] = ()) -> None:
        self.labels: dict[str, list[str]] = {name: [] for name in label_columns}
        self.fields: dict[str, None] = {}

    def read(self, parts: Iterable[str], path: Path, role: str) -> Iterator[str]:
        """Yield the text of each record: its field `text`, or `prompt` and `completion` joined; skip blank lines.

        Args:
            parts: The content of the file, with line feeds as line breaks.
            path: Its suffix decides: .csv, with the names of the fields in the first line; else JSON Lines.
            role: Name of the file in errors.

        Raises:
            CorpusError: a record is malformed, has none of these fields, or an invalid label; the message has its line.
        """
        lines = _lines(parts, f"{role} {path}")
        records = (_csv_records if path.suffix.lower() == ".csv" else _json_records)(lines, f"{role} {path}")
        for record, where in records:
            text = _text(record, where)
            if len(self.fields) < MAX_FIELDS:
                self.fields |= dict.fromkeys(record)
            if text.strip():
                for name, labels in self.labels.items():
                    labels.append(_label(record.get(name), name, where))
            yield text


def _lines(parts: Iterable[str], name: str) -> Iterator[str]:
    begun = ""
    for part in parts:
        # Not `splitlines`, for which U+2028 ends a line, too.
        *complete, begun = (begun + part).split("\n")
        yield from (f"{line}\n" for line in complete)
        if len(begun) > MAX_RECORD_CHARACTERS:
            raise CorpusError(f"{name}: a line must have at most {MAX_RECORD_CHARACTERS:,} characters, got more")
    if begun:
        yield begun


def _json_records(lines: Iterable[str], name: str) -> Iterator[tuple[dict[str, object], str]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{name}, line {number}: not JSON ({error}){_HINT}") from None
        if not isinstance(record, dict):
            got = f"{line[:40]!r}{_HINT}"
            raise CorpusError(f"{name}, line {number}: a JSON object with {_FIELDS} is required, got {got}")
        yield record, f"{name}, line {number}"


def _csv_records(lines: Iterable[str], name: str) -> Iterator[tuple[dict[str, object], str]]:
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    # Strict: otherwise an unclosed quotation mark takes the rest of the file into its field.
    reader, last_line = csv.DictReader(lines, restval="", strict=True), 0
    try:
        _ = reader.fieldnames
        last_line = reader.line_num
        for record in reader:
            last_line = reader.line_num
            if any(record.pop(None, ())):
                rule = "a text with a comma must be in quotation marks"
                raise CorpusError(f"{name}, line {last_line}: it has more fields than the first line names; {rule}")
            yield dict(record), f"{name}, line {last_line}"
    except csv.Error as error:
        rule = "a field in quotation marks must end with one before a comma or the end of a line"
        raise CorpusError(f"{name}, the record at line {last_line + 1}: {error}; {rule}") from None


def _text(record: dict[str, object], where: str) -> str:
    values = [record[name] for name in ((TEXT,) if TEXT in record else (PROMPT, COMPLETION)) if name in record]
    if not values or (len(values) == 1 and TEXT not in record):
        got = ", ".join(map(repr, record))[:80] or "nothing"
        raise CorpusError(f"{where}: {_FIELDS} is required, got {got}{_HINT}")
    for value in values:
        if not isinstance(value, str):
            raise CorpusError(f"{where}: {_FIELDS} must be a string, got {str(value)[:40]}")
    # A zero character separates documents, and occurs in no text file.
    text = "".join(map(str, values)).replace("\0", "")
    _require_characters(text, where)
    return text


def _label(value: object, name: str, where: str) -> str:
    """Return a label as a text: one object for equal labels, which are many."""
    # Python's `json.dumps` writes missing numbers as NaN.
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise CorpusError(f"{where}: the label {name} must be a string or a number, got {str(value)[:40]}")
    # As JSON has it: true, 0.5.
    text = value.strip() if isinstance(value, str) else json.dumps(value)
    if len(text) > MAX_LABEL_CHARACTERS:
        got = f"{len(text)}: {text[:40]!r}…"
        raise CorpusError(f"{where}: the label {name} must have at most {MAX_LABEL_CHARACTERS} characters, got {got}")
    _require_characters(text, where)
    return sys.intern(text)


def _require_characters(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):x}"
        raise CorpusError(f"{where}: {half} is half of a surrogate pair, not a character") from None
