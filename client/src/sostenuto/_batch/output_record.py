"""The lines of OUT: serialize and parse. Knows OpenAI's format. Does not know files."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from sostenuto._batch.errors import ForeignContent, LineError
from sostenuto._batch.requests_file import DUPLICATE, Line

FIRST_ERROR = 300
# The prefix of every line: distinguishes an incomplete line from a file that no batch wrote.
_PREFIX = b'{"id":"batch_req_'


@dataclass(frozen=True)
class OutputLine:
    """A serialized line of OUT, or several that belong together, with what is counted of it.

    Attributes:
        content: The line, with its line feed.
        code: The error code, or None.
        tokens: Completion tokens.
    """

    content: bytes
    code: str | None = None
    tokens: int = 0


@dataclass(frozen=True)
class OutputRecord:
    """A parsed line of OUT: its line of IN, by custom_id or by number (the other one is None), and its error.

    Attributes:
        custom_id: The custom_id of the line of IN.
        line: The number of the line of IN, if no custom_id identifies it.
        code: The error code, or None.
    """

    custom_id: str | None
    line: int | None
    code: str | None


def response_line(custom_id: str, status: int, request_id: str | None, content: bytes) -> OutputLine:
    """Serialize an HTTP response, success or error; content that is not JSON becomes a string."""
    parsed = parse_json(content)
    # The received bytes: numbers keep their digits, and nothing is serialized again.
    body = content.strip() if parsed is not None else orjson.dumps(content.decode(errors="replace"))
    if b"\n" in body:
        body = orjson.dumps(parsed)
    custom_id_json, request_id_json = orjson.dumps(custom_id), orjson.dumps(request_id)
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (status, request_id_json, body)
    line = b'{"id":"%b","custom_id":%b,"response":%b,"error":null}\n' % (_new_id(), custom_id_json, response)
    code = error_code(status, parsed)
    return OutputLine(line, code, num_tokens(parsed) if code is None else 0)


def error_line(line: Line, error: LineError) -> OutputLine:
    """Serialize the error of a line without an HTTP response."""
    fields = {"code": error.code, "message": str(error), "line": line.number}
    content = {"id": _new_id().decode(), "custom_id": error.custom_id, "response": None, "error": fields}
    return OutputLine(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), error.code)


def parse_output_record(content: bytes) -> OutputRecord | None:
    """Parse a line of OUT; return None if it is not one."""
    fields = parse_json(content)
    if not isinstance(fields, dict):
        return None
    custom_id, response, error = (fields.get(name) for name in ("custom_id", "response", "error"))
    if isinstance(response, dict) and isinstance(custom_id, str) and isinstance(response.get("status_code"), int):
        return OutputRecord(custom_id, None, error_code(response["status_code"], response.get("body")))
    if not isinstance(error, dict) or not isinstance(error.get("line"), int):
        return None
    code = str(error.get("code"))
    if not isinstance(custom_id, str) or code == DUPLICATE:
        return OutputRecord(None, error["line"], code)
    return OutputRecord(custom_id, None, code)


def read_output_lines(lines: Iterable[bytes]) -> Iterator[tuple[bytes, OutputRecord]]:
    """Yield every line of OUT, as bytes and parsed; end before an incomplete one.

    Raises:
        ForeignContent: a line is not a line of OUT.
    """
    for number, content in enumerate(lines, 1):
        if not content.endswith(b"\n"):
            require_prefix(content, _PREFIX, number)
            return
        record = parse_output_record(content)
        if record is None:
            raise ForeignContent(number)
        yield content, record


def require_prefix(incomplete: bytes, prefix: bytes, line: int) -> None:
    """Raise ForeignContent unless a line without its end begins as lines with this prefix do."""
    if not (prefix.startswith(incomplete) or incomplete.startswith(prefix)):
        raise ForeignContent(line)


def error_code(status: int, body: Any) -> str | None:
    """Return the code by which an error is counted, OpenAI's or else the status; None for a success."""
    if status < FIRST_ERROR:
        return None
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else f"http_{status}"


def parse_json(content: bytes) -> Any:
    """Parse JSON; return None if it is invalid."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def num_tokens(body: Any) -> int:
    """Return the number of completion tokens of a response; 0 if it has none."""
    usage = body.get("usage") if isinstance(body, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _new_id() -> bytes:
    return b"batch_req_" + uuid.uuid4().hex.encode()
