"""Records of dataset tools: a choice with custom_id, index, text and finish_reason, as a line of JSON or of CSV.

The records of a response follow one another with descending indices. Index 0 completes them, so that records which a
killed run left incomplete are recognized without knowing their number. Does not know files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from sostenuto._batch.errors import ForeignContent, LineError
from sostenuto._batch.output_record import (
    OutputLine,
    OutputRecord,
    error_code,
    num_tokens,
    parse_json,
    require_prefix,
    response_line,
)

COLUMNS = ("custom_id", "index", "text", "finish_reason")
_JSON_PREFIX = b'{"custom_id":"'
_CRLF = "\r\n"
_FIELD = rb'("[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_CSV_RECORD = re.compile(_FIELD + rb",(\d{1,9})," + _FIELD + b"," + _FIELD + _CRLF.encode())
# What spreadsheets evaluate (https://owasp.org/www-community/attacks/CSV_Injection). Apostrophes before it are
# included, so that removing one restores any cell.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")

Row = tuple[str, int, str, str | None]


class _Record(NamedTuple):
    """A record that was read: its first line in the file, its bytes, and its custom_id and index."""

    line: int
    content: bytes
    custom_id: str
    choice: int


def choice_records(
    write: Callable[[Row], bytes], custom_id: str, status: int, request_id: str | None, content: bytes
) -> OutputLine:
    """Serialize a response with `write`, a record per choice; an error becomes a line in OpenAI's format.

    Raises:
        LineError: the response is a success, but not a completion.
    """
    body = parse_json(content)
    if error_code(status, body) is not None:
        return response_line(custom_id, status, request_id, content)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise LineError("not_a_completion", "the response must have choices with index and text, got none", custom_id)
    by_index = {choice["index"]: choice for choice in choices}
    # Between them numbers are missing where a prompt of several got fewer choices than n.
    if 0 not in by_index or len(by_index) < len(choices):
        message = f"the response must have choices with distinct indices from 0, got {sorted(by_index)[:10]}"
        raise LineError("not_a_completion", message, custom_id)
    rows = [(custom_id, index, by_index[index]["text"], by_index[index].get("finish_reason")) for index in by_index]
    return OutputLine(b"".join(map(write, sorted(rows, key=lambda row: -row[1]))), None, num_tokens(body))


def _is_choice(fields: Any) -> bool:
    """Return whether these are the fields of a choice with a text."""
    if not isinstance(fields, dict) or not isinstance(fields.get("finish_reason"), (str, type(None))):
        return False
    return isinstance(fields.get("text"), str) and isinstance(fields.get("index"), int) and fields["index"] >= 0


def write_json(row: Row) -> bytes:
    """Return a line of JSON."""
    return orjson.dumps(dict(zip(COLUMNS, row, strict=False)), option=orjson.OPT_APPEND_NEWLINE)


def write_csv(row: tuple[Any, ...]) -> bytes:
    """Return a record of CSV in UTF-8, by RFC 4180: a text with line breaks is quoted and stays as it is."""
    line = io.StringIO()
    csv.writer(line, lineterminator=_CRLF).writerow(row)
    return line.getvalue().encode()


def write_escaped_csv(row: tuple[Any, ...]) -> bytes:
    """Return a record of CSV with an apostrophe before each cell that a spreadsheet would take for a formula."""
    return write_csv(tuple(f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row))


def read_json(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    """Yield the records of each response, as bytes and parsed; end before an incomplete response.

    Raises:
        ForeignContent: a line is no record, or the order of the records was changed.
    """
    return _by_response(_json_records(lines))


def read_csv(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    """Do the same as `read_json` with the lines after the header."""
    return _by_response(_csv_records(lines))


def read_escaped_csv(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    """Do the same as `read_csv` with records of `write_escaped_csv`."""
    for content, record in read_csv(lines):
        custom_id = record.custom_id or ""
        is_escaped = custom_id.startswith("'") and _FORMULA.match(custom_id)
        yield content, replace(record, custom_id=custom_id[1:] if is_escaped else custom_id)


def _by_response(records: Iterator[_Record]) -> Iterator[tuple[bytes, OutputRecord]]:
    contents: list[bytes] = []
    before: _Record | None = None
    for record in records:
        is_next = before is not None and record.custom_id == before.custom_id and record.choice < before.choice
        # In a file whose order was changed, complete records at its end could be taken for incomplete ones.
        if is_next != bool(contents) or (not contents and before and record.custom_id == before.custom_id):
            raise ForeignContent(record.line)
        contents.append(record.content)
        before = record
        if record.choice == 0:
            yield b"".join(contents), OutputRecord(record.custom_id, None, None)
            contents = []


def _json_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    for number, content in enumerate(lines, 1):
        if not content.endswith(b"\n"):
            require_prefix(content, _JSON_PREFIX, number)
            return
        fields = parse_json(content)
        if not _is_choice(fields) or tuple(fields) != COLUMNS or not isinstance(fields["custom_id"], str):
            raise ForeignContent(number)
        yield _Record(number, content, fields["custom_id"], fields["index"])


def _csv_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    parts: list[bytes] = []
    num_quotes, first_line = 0, 2
    for number, part in enumerate(lines, first_line):
        parts.append(part)
        num_quotes += part.count(b'"')
        # Line breaks of a text are quoted: after each, the number of quotation marks so far is odd.
        if num_quotes % 2 or not part.endswith(b"\n"):
            continue
        content = b"".join(parts)
        match = _CSV_RECORD.fullmatch(content)
        if match is None:
            raise ForeignContent(first_line)
        yield _Record(first_line, content, _unquote(match[1], first_line), int(match[2]))
        parts, num_quotes, first_line = [], 0, number + 1


def _unquote(field: bytes, line: int) -> str:
    if field.startswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise ForeignContent(line) from None
