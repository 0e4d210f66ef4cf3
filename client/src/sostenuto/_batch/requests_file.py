"""IN, in OpenAI's format: its lines, parsed into requests."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sostenuto._batch.errors import LineError, UsageError

COMPLETIONS = "/v1/completions"
URLS = (COMPLETIONS, "/v1/next", "/v1/embeddings", "/v1/score", "/tokenize", "/detokenize")
# Four times the gateway's default SOSTENUTO_MAX_BODY_BYTES.
MAX_LINE_BYTES = 16 * 2**20
MAX_SHOWN = 80  # characters of a value in a message
DUPLICATE = "duplicate_custom_id"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Line:
    """A line of IN."""

    number: int  # from 1, counting empty lines
    content: bytes  # without surrounding white space; of a line that is too long, the first MAX_LINE_BYTES + 1 bytes
    same_as: int = 0  # number of the first line with the same custom_id; 0 if this is the first


@dataclass(frozen=True)
class BatchRequest:
    """A request to be sent; `body` is JSON in UTF-8."""

    custom_id: str
    url: str
    body: bytes


def check_readable(path: Path) -> os.stat_result:
    """Check that IN can be read twice, and return its `stat` result; raise UsageError if not."""
    try:
        with path.open("rb"):
            status = path.stat()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(
            f"IN must be a regular file, as it is read twice and again on resume; got {path}: save it first"
        )
    return status


def read_lines(path: Path) -> Iterator[Line]:
    """Yield every line, including empty ones, with one in memory at a time."""
    try:
        with path.open("rb") as file:
            number = 0
            # With a line end, which does not count.
            while content := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                is_long = len(content.rstrip(b"\r\n")) > MAX_LINE_BYTES
                if is_long:
                    _skip_rest(file, content)
                elif number == 1:
                    content = content.removeprefix(_BYTE_ORDER_MARK)
                yield Line(number, content[: MAX_LINE_BYTES + 1] if is_long else content.strip())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _skip_rest(file: Any, content: bytes) -> None:
    while content and not content.endswith(b"\n"):
        content = file.readline(MAX_LINE_BYTES)


def custom_id_of(content: bytes) -> str | None:
    """Return a line's custom_id, or None if it has no valid one."""
    try:
        return _parse_fields(content)[0]
    except LineError:
        return None


def parse(line: Line) -> BatchRequest:
    """Return the request of a line; raise LineError, with field, requirement and value, if it is invalid."""
    custom_id, fields = _parse_fields(line.content)
    if line.same_as:
        message = f"custom_id must be unique, got {_excerpt(custom_id)} as in line {line.same_as}"
        raise LineError(DUPLICATE, message, custom_id)
    for field, value, is_valid, requirement in (
        ("method", fields.get("method"), fields.get("method") == "POST", "POST"),
        ("url", fields.get("url"), fields.get("url") in URLS, f"one of {', '.join(URLS)}"),
        ("body", fields.get("body"), isinstance(fields.get("body"), dict), "an object"),
    ):
        if not is_valid:
            got = _excerpt(value) if field in fields else "none"
            raise LineError(f"invalid_{field}", f"{field} must be {requirement}, got {got}", custom_id)
    body = fields["body"]
    # The gateway refuses other values.
    if body.get("stream") is True:
        raise LineError("invalid_body", "body.stream must be false or absent in a batch, got true", custom_id)
    try:
        return BatchRequest(custom_id, fields["url"], orjson.dumps(body))
    except TypeError as error:
        raise LineError("invalid_body", f"body cannot be sent as JSON: {error}", custom_id) from None


def _parse_fields(content: bytes) -> tuple[str, dict[str, Any]]:
    if len(content) > MAX_LINE_BYTES:
        raise LineError("line_too_long", f"the line must be at most {MAX_LINE_BYTES} bytes, got more")
    try:
        fields = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise LineError("invalid_json", f"the line must be JSON in UTF-8, got {_excerpt(content)}: {error}") from None
    if not isinstance(fields, dict):
        raise LineError("invalid_line", f"the line must be an object, got {_excerpt(fields)}")
    custom_id = fields.get("custom_id")
    if not isinstance(custom_id, str):
        got = _excerpt(custom_id) if "custom_id" in fields else "none"
        raise LineError("invalid_custom_id", f"custom_id must be a string, got {got}")
    return custom_id, fields


def _excerpt(value: object) -> str:
    """Return the beginning of a value in JSON, or in Python if it nests too deep for JSON."""
    try:
        text = value.decode(errors="replace") if isinstance(value, bytes) else orjson.dumps(value).decode()
    except TypeError:
        text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
