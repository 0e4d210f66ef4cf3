"""Files of records: lines of text, CSV, JSON Lines, and what `sostenuto batch` writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sostenuto._errors import InvalidArgument
from sostenuto._report.records import Records, Row, csv_line, object_row, with_columns

# The fields of a record that is a text, as training reads them.
TEXT, PROMPT, COMPLETION = "text", "prompt", "completion"
LINES, CSV, JSONL = "lines", "csv", "jsonl"
FORMATS = {".csv": CSV, ".jsonl": JSONL, ".ndjson": JSONL}
MAX_RECORD_CHARACTERS = 16 * 2**20


def read_records(
    path: Path, *, file_format: str | None = None, field: str | None = None, columns: tuple[str, ...] = ()
) -> Records:
    """Read the records of a file.

    Args:
        path: A file in UTF-8.
        file_format: lines, csv or jsonl; None: by the suffix, lines for any but .csv, .jsonl and .ndjson.
        field: Name of the column that is the text of a record; None: `text`, or `prompt` and `completion` joined,
            where there are such columns; else a record is the whole row.
        columns: Names of the columns of texts that are lines of CSV.

    Raises:
        InvalidArgument: the file cannot be read, is not UTF-8, has no records or no such field.
    """
    file_format = file_format or FORMATS.get(path.suffix.lower(), LINES)
    try:
        # By universal newlines, but U+2028 and the like stay within a line.
        content = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} must be UTF-8, got byte 0x{error.object[error.start]:02x}") from error
    records = {LINES: _lines, CSV: _csv, JSONL: _jsonl}[file_format](path, content, field)
    if not records.texts:
        raise InvalidArgument(f"{path} must have at least one record, got none")
    return with_columns(records, columns)


def _lines(path: Path, content: str, field: str | None) -> Records:
    if field is not None:
        raise InvalidArgument(f"{path}: a field needs CSV or JSON Lines, got lines of text")
    return Records(path.name, [line for line in content.split("\n") if line.strip()])


def _csv(path: Path, content: str, field: str | None) -> Records:
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    reader = csv.reader(io.StringIO(content, newline=""))
    try:
        header, *rows = [row for row in reader if row] or [[]]
    except csv.Error as error:
        raise InvalidArgument(f"{path}, line {reader.line_num}: {error}") from error
    names = _text_fields(header, field, str(path))
    if names:
        places = [header.index(name) for name in names]
        return Records(path.name, ["".join(row[place] for place in places if place < len(row)) for row in rows])
    if len(set(header)) < len(header):
        raise InvalidArgument(f"{path} must have different names of columns, got {', '.join(header)[:200]}")
    parsed: list[Row | None] = [[value or None for value in row] if len(row) == len(header) else None for row in rows]
    return Records(path.name, [csv_line(row) for row in rows], tuple(header), parsed)


def _jsonl(path: Path, content: str, field: str | None) -> Records:
    lines = [line for line in content.split("\n") if line.strip()]
    values = [_parse(line) for line in lines]
    first = next((value for value in values if isinstance(value, dict)), {})
    if isinstance(first.get("response"), dict) or ("custom_id" in first and "error" in first):
        return Records(path.name, [text for value in values for text in _choices(value)])
    names = _text_fields(list(first), field, str(path))
    if names:
        return Records(path.name, ["".join(str(_field(value, name)) for name in names) for value in values])
    if all(isinstance(value, str) for value in values):
        return Records(path.name, [str(value) for value in values])
    columns = tuple(dict.fromkeys(name for value in values if isinstance(value, dict) for name in value))
    rows = [object_row(value, columns) if isinstance(value, dict) else None for value in values]
    return Records(path.name, lines, columns, rows)


def _text_fields(columns: list[str], field: str | None, where: str) -> tuple[str, ...]:
    """Return the columns that make up the text of a record; none if the whole row does."""
    if field is not None:
        if field not in columns:
            raise InvalidArgument(f"{where} must have the field {field!r}, got {', '.join(columns)[:200] or 'none'}")
        return (field,)
    if TEXT in columns:
        return (TEXT,)
    return (PROMPT, COMPLETION) if PROMPT in columns and COMPLETION in columns else ()


def _field(value: Any, name: str) -> Any:
    found = value.get(name) if isinstance(value, dict) else None
    return "" if found is None else found


def _choices(line: Any) -> Iterator[str]:
    """Yield the texts of a line of a batch's output in OpenAI's format."""
    response = line.get("response") if isinstance(line, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    choices = body.get("choices") if isinstance(body, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get(TEXT), str):
            yield choice[TEXT]


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
