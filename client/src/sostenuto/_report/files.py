"""Files of records: lines of text, CSV, JSON Lines, and what `sostenuto batch` writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sostenuto._errors import InvalidArgument
from sostenuto._report.records import Records, Row, csv_line, csv_reader, object_row, with_columns, with_line_feeds
from sostenuto._responses import json_or_none

# The fields of a record that is a text, as training reads them.
TEXT, PROMPT, COMPLETION = "text", "prompt", "completion"
LINES, CSV, JSONL = "lines", "csv", "jsonl"
FORMATS = {".csv": CSV, ".jsonl": JSONL, ".ndjson": JSONL}


def read_records(
    path: Path,
    *,
    name: str | None = None,
    file_format: str | None = None,
    field: str | None = None,
    columns: tuple[str, ...] = (),
) -> Records:
    """Read the records of a file.

    Args:
        path: A file in UTF-8, with line feeds or CRLF as line ends.
        name: Its name in the report and errors, whose suffix decides; None: the path.
        file_format: lines, csv or jsonl; None: by the suffix, lines for any but .csv, .jsonl and .ndjson.
        field: Name of the column that is the text of a record; None: `text`, or `prompt` and `completion` joined,
            where there are such columns; else a record is the whole row.
        columns: Names of the columns of texts that are lines of CSV, or of a CSV file without a header.

    Raises:
        InvalidArgument: the file cannot be read, is not UTF-8, has no records or no such field, or a record is
            malformed.
    """
    where = str(path) if name is None else name
    file_format = file_format or FORMATS.get(Path(where).suffix.lower(), LINES)
    try:
        content = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except OSError as error:
        raise InvalidArgument(f"cannot read {where}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{where} must be UTF-8, got byte 0x{error.object[error.start]:02x}") from error
    if file_format == CSV:
        records = _csv(where, content, field, columns)
    else:
        records = (_jsonl if file_format == JSONL else _lines)(where, content, field)
    if not records.texts:
        raise InvalidArgument(f"{where} must have at least one record, got none")
    return with_columns(replace(records, name=Path(where).name), columns)


def _lines(where: str, content: str, field: str | None) -> Records:
    if field is not None:
        raise InvalidArgument(f"{where}: a field needs CSV or JSON Lines, got lines of text")
    return Records(where, [line for line in content.split("\n") if line.strip()])


def _csv(where: str, content: str, field: str | None, columns: tuple[str, ...]) -> Records:
    header, *rows = _csv_rows(where, content) or [[]]
    if columns and not {*columns} <= {*header} and field not in header and not _text_fields(header):
        header, rows = list(columns), [header, *rows]
    names = _text_fields(header, field, where)
    if names:
        places = [header.index(name) for name in names]
        return Records(where, ["".join(row[place] for place in places if place < len(row)) for row in rows])
    if len(set(header)) < len(header):
        raise InvalidArgument(f"{where} must have different names of columns, got {', '.join(header)[:200]}")
    parsed: list[Row | None] = [[value or None for value in row] if len(row) == len(header) else None for row in rows]
    return Records(where, [csv_line(row) for row in rows], tuple(header), parsed)


def _csv_rows(where: str, content: str) -> list[list[str]]:
    """Return the rows that are not blank; refuse an unclosed quotation mark, which would swallow the rest."""
    reader, rows, last_line = csv_reader(io.StringIO(content, newline="")), list[list[str]](), 0
    try:
        for row in reader:
            last_line = reader.line_num
            rows.append(row)
    except csv.Error as error:
        rule = "a field in quotation marks must end with one before a comma or the end of a line"
        raise InvalidArgument(f"{where}, the record at line {last_line + 1}: {error}; {rule}") from error
    return [row for row in rows if row]


def _jsonl(where: str, content: str, field: str | None) -> Records:
    lines = {number: line for number, line in enumerate(content.split("\n"), start=1) if line.strip()}
    values = {number: json_or_none(line) for number, line in lines.items()}
    objects = [value for value in values.values() if isinstance(value, dict)]
    first = objects[0] if objects else {}
    is_batch = isinstance(first.get("response"), dict) or ("custom_id" in first and "error" in first)
    names = () if is_batch else _text_fields(list(first), field, where)
    if objects and not is_batch and not names:
        # A line that is not an object is an invalid record, without a row.
        columns = tuple(dict.fromkeys(name for value in objects for name in value))
        rows = [object_row(value, columns) if isinstance(value, dict) else None for value in values.values()]
        return Records(where, list(lines.values()), columns, rows)
    texts: list[str] = []
    for number, value in values.items():
        if is_batch and isinstance(value, dict):
            texts += _choices(value)
        elif names and isinstance(value, dict) and all(value.get(name) is not None for name in names):
            texts.append(with_line_feeds("".join(str(value[name]) for name in names)))
        elif not objects and isinstance(value, str):
            texts.append(with_line_feeds(value))
        else:
            required = f"a JSON object with {' and '.join(names) or 'response'}" if objects else "a JSON string"
            raise InvalidArgument(f"{where}, line {number}: {required} is required, got {lines[number][:40]!r}")
    return Records(where, texts)


def _text_fields(columns: list[str], field: str | None = None, where: str = "") -> tuple[str, ...]:
    """Return the columns that make up the text of a record; none if the whole row does."""
    if field is not None:
        if field not in columns:
            raise InvalidArgument(f"{where} must have the field {field!r}, got {', '.join(columns)[:200] or 'none'}")
        return (field,)
    if TEXT in columns:
        return (TEXT,)
    return (PROMPT, COMPLETION) if PROMPT in columns and COMPLETION in columns else ()


def _choices(line: dict[str, Any]) -> Iterator[str]:
    """Yield the texts of a line of a batch's output in OpenAI's format."""
    response = line.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    choices = body.get("choices") if isinstance(body, dict) else None
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get(TEXT), str):
            yield with_line_feeds(choice[TEXT])
