"""The formats of OUT: OpenAI's, with a line per response, and records for dataset tools, with one per choice.

A record has custom_id, index, text and finish_reason, as a line of JSON or CSV. The records of a response follow one
another with descending indices. Index 0 completes them, so that the incomplete records of a killed run are recognized
without knowing their number.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import orjson

from sostenuto._batch.errors import ForeignContent, LineError
from sostenuto._batch.requests_file import COMPLETIONS, DUPLICATE, URLS, Line
from sostenuto._report.records import csv_line

COLUMNS = ("custom_id", "index", "text", "finish_reason")
Row: TypeAlias = tuple[str, int, str, str | None]

_FIRST_ERROR = 300  # HTTP status
# The beginning of every line: distinguishes an incomplete line from a file that no batch wrote.
_LINE_PREFIX, _RECORD_PREFIX = b'{"id":"batch_req_', b'{"custom_id":"'
_CRLF = "\r\n"
_FIELD = rb'("[^"]*(?:""[^"]*)*"|[^",\r\n]*)'
_CSV_RECORD = re.compile(_FIELD + rb",(\d{1,9})," + _FIELD + b"," + _FIELD + _CRLF.encode())
# What spreadsheets evaluate (https://owasp.org/www-community/attacks/CSV_Injection). Apostrophes before it are
# included, so that removing one restores any cell.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


@dataclass(frozen=True)
class OutputLine:
    """The lines that a response adds to OUT, one or several, with its error code and tokens for the summary."""

    content: bytes  # each line with its line feed
    code: str | None = None  # of an error
    tokens: int = 0  # of the completion


@dataclass(frozen=True)
class OutputRecord:
    """A response as read from OUT: its line of IN and its error."""

    custom_id: str | None
    line: int | None  # the number of the line of IN, if no custom_id identifies it
    code: str | None  # of an error


@dataclass(frozen=True)
class OutputFormat:
    """A format of OUT."""

    name: str  # as `--format` has it
    header: bytes  # the beginning of OUT
    # Returns what a response adds to OUT: (custom_id, status, request id, body). An error is in OpenAI's format. Raises
    # LineError if the format cannot represent the response.
    serialize: Callable[[str, int, str | None, bytes], OutputLine]
    # Yields each response, as bytes and parsed, from the lines after the header; ends before an incomplete one of a
    # killed run. Raises ForeignContent.
    read: Callable[[Iterable[bytes]], Iterator[tuple[bytes, OutputRecord]]]
    urls: tuple[str, ...] = (COMPLETIONS,)  # endpoints with supported responses
    has_errors: bool = False  # whether errors are lines of OUT; otherwise in a file of their own, in OpenAI's format


def response_line(custom_id: str, status: int, request_id: str | None, content: bytes) -> OutputLine:
    """Serialize an HTTP response, success or error; content that is not JSON becomes a string."""
    parsed = _parse_json(content)
    # The received bytes, so that numbers keep their digits and nothing is serialized again.
    body = content.strip() if parsed is not None else orjson.dumps(content.decode(errors="replace"))
    if b"\n" in body:
        body = orjson.dumps(parsed)
    custom_id_json, request_id_json = orjson.dumps(custom_id), orjson.dumps(request_id)
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (status, request_id_json, body)
    line = b'{"id":"%b","custom_id":%b,"response":%b,"error":null}\n' % (_new_id(), custom_id_json, response)
    code = _error_code(status, parsed)
    return OutputLine(line, code, _num_tokens(parsed) if code is None else 0)


def error_line(line: Line, error: LineError) -> OutputLine:
    """Serialize the error of a line without an HTTP response."""
    fields = {"code": error.code, "message": str(error), "line": line.number}
    content = {"id": _new_id().decode(), "custom_id": error.custom_id, "response": None, "error": fields}
    return OutputLine(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), error.code)


def read_lines(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    """Read OpenAI's format."""
    for number, content in _whole_lines(lines, _LINE_PREFIX):
        record = parse_line(content)
        if record is None:
            raise ForeignContent(number)
        yield content, record


def parse_line(content: bytes) -> OutputRecord | None:
    """Parse a line in OpenAI's format; return None if it is not one."""
    fields = _parse_json(content)
    if not isinstance(fields, dict):
        return None
    custom_id, response, error = (fields.get(name) for name in ("custom_id", "response", "error"))
    if isinstance(response, dict) and isinstance(custom_id, str) and isinstance(response.get("status_code"), int):
        return OutputRecord(custom_id, None, _error_code(response["status_code"], response.get("body")))
    if not isinstance(error, dict) or not isinstance(error.get("line"), int):
        return None
    code = str(error.get("code"))
    if not isinstance(custom_id, str) or code == DUPLICATE:
        return OutputRecord(None, error["line"], code)
    return OutputRecord(custom_id, None, code)


def choice_records(
    write: Callable[[Row], bytes], custom_id: str, status: int, request_id: str | None, content: bytes
) -> OutputLine:
    """Serialize a response with `write`, a record per choice; an error becomes a line in OpenAI's format."""
    body = _parse_json(content)
    if _error_code(status, body) is not None:
        return response_line(custom_id, status, request_id, content)
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise LineError("not_a_completion", "the response must have choices with index and text, got none", custom_id)
    by_index = {choice["index"]: choice for choice in choices}
    # Numbers are missing where one of several prompts got fewer choices than n.
    if 0 not in by_index or len(by_index) < len(choices):
        message = f"the response must have choices with distinct indices from 0, got {sorted(by_index)[:10]}"
        raise LineError("not_a_completion", message, custom_id)
    rows = [
        (custom_id, index, by_index[index]["text"], by_index[index].get("finish_reason"))
        for index in sorted(by_index, reverse=True)
    ]
    return OutputLine(b"".join(map(write, rows)), None, _num_tokens(body))


def write_json(row: Row) -> bytes:
    return orjson.dumps(dict(zip(COLUMNS, row, strict=True)), option=orjson.OPT_APPEND_NEWLINE)


def write_csv(row: tuple[Any, ...]) -> bytes:
    """Return a record of CSV in UTF-8, by RFC 4180: a text with line breaks is quoted and stays as it is."""
    return (csv_line(row) + _CRLF).encode()


def write_escaped_csv(row: tuple[Any, ...]) -> bytes:
    """Return a record of CSV with an apostrophe before each cell that a spreadsheet would take for a formula."""
    return write_csv(tuple(f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell for cell in row))


class _Record(NamedTuple):
    """A record as read: its first line in the file, its bytes, custom_id and index."""

    line: int
    content: bytes
    custom_id: str
    choice: int


def read_escaped_csv(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    for content, record in read_records(_csv_records, lines):
        custom_id = record.custom_id or ""
        is_escaped = custom_id.startswith("'") and _FORMULA.match(custom_id)
        yield content, replace(record, custom_id=custom_id[1:] if is_escaped else custom_id)


def read_records(
    parse: Callable[[Iterable[bytes]], Iterator[_Record]], lines: Iterable[bytes]
) -> Iterator[tuple[bytes, OutputRecord]]:
    """Read responses whose choices are the records that `parse` finds in the lines."""
    contents: list[bytes] = []
    before: _Record | None = None
    for record in parse(lines):
        is_next = before is not None and record.custom_id == before.custom_id and record.choice < before.choice
        # In a reordered file, complete records at the end could be taken for incomplete ones.
        if is_next != bool(contents) or (not contents and before and record.custom_id == before.custom_id):
            raise ForeignContent(record.line)
        contents.append(record.content)
        before = record
        if record.choice == 0:
            yield b"".join(contents), OutputRecord(record.custom_id, None, None)
            contents = []


def _json_records(lines: Iterable[bytes]) -> Iterator[_Record]:
    for number, content in _whole_lines(lines, _RECORD_PREFIX):
        fields = _parse_json(content)
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


def _whole_lines(lines: Iterable[bytes], prefix: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each line with its number, except for an incomplete last one that begins as lines with this prefix do."""
    for number, content in enumerate(lines, 1):
        if content.endswith(b"\n"):
            yield number, content
        elif not (prefix.startswith(content) or content.startswith(prefix)):
            raise ForeignContent(number)


def _unquote(field: bytes, line: int) -> str:
    if field.startswith(b'"'):
        field = field[1:-1].replace(b'""', b'"')
    try:
        return field.decode()
    except UnicodeDecodeError:
        raise ForeignContent(line) from None


def _is_choice(fields: Any) -> bool:
    if not isinstance(fields, dict) or not isinstance(fields.get("finish_reason"), (str, type(None))):
        return False
    return isinstance(fields.get("text"), str) and isinstance(fields.get("index"), int) and fields["index"] >= 0


def _error_code(status: int, body: Any) -> str | None:
    """Return the code under which an error is counted, OpenAI's or else the status; None for a success."""
    if status < _FIRST_ERROR:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else f"http_{status}"


def _num_tokens(body: Any) -> int:
    usage = body.get("usage") if isinstance(body, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _parse_json(content: bytes) -> Any:
    """Parse JSON; return None if it is invalid."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _new_id() -> bytes:
    return b"batch_req_" + uuid.uuid4().hex.encode()


OPENAI = OutputFormat("openai", b"", response_line, read_lines, URLS, has_errors=True)
JSONL = OutputFormat("jsonl", b"", partial(choice_records, write_json), partial(read_records, _json_records))
CSV = OutputFormat("csv", write_csv(COLUMNS), partial(choice_records, write_csv), partial(read_records, _csv_records))
# The quoted header is equivalent to programs, but refuses a run without the option on this OUT, and vice versa.
ESCAPED_CSV = OutputFormat(
    "csv --escape-formulas",
    b",".join(b'"%b"' % name.encode() for name in COLUMNS) + b"\r\n",
    partial(choice_records, write_escaped_csv),
    read_escaped_csv,
)
FORMATS = {each.name: each for each in (OPENAI, JSONL, CSV)}
