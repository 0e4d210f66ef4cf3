"""The lines of OUT: how they are written, and what an earlier run's say. Knows OpenAI's format, no files."""

import uuid
from dataclasses import dataclass
from typing import Any

import orjson

from service.batch.errors import WrongLine
from service.batch.requests_file import DUPLICATE, Line

FIRST_REFUSAL = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """A line of OUT, and what is counted of it.

    Attributes:
        content: The line, its end included.
        code: What was wrong, or None.
        tokens: Tokens that were written.
    """

    content: bytes
    code: str | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class OutputRecord:
    """What a line of OUT says about IN: one of both is None.

    Attributes:
        custom_id: Whose line it answers.
        line: Number of the line that it answers, of one that no custom_id tells from others.
        code: What was wrong, or None.
    """

    custom_id: str | None
    line: int | None
    code: str | None


def answered(custom_id: str, status: int, request_id: str | None, content: bytes) -> Answer:
    """Return the line of an answer by HTTP, success or not.

    Args:
        custom_id: As the request has it.
        status: HTTP's.
        request_id: The header x-request-id.
        content: The body, as it came. What is not JSON becomes a string.
    """
    parsed = parse_json(content)
    # The bytes as they came: numbers keep their digits, and nothing is written twice.
    body = content.strip() if parsed is not None else orjson.dumps(content.decode(errors="replace"))
    if b"\n" in body:
        body = orjson.dumps(parsed)
    named, own_id = orjson.dumps(custom_id), orjson.dumps(request_id)
    response = b'{"status_code":%d,"request_id":%b,"body":%b}' % (status, own_id, body)
    line = b'{"id":"%b","custom_id":%b,"response":%b,"error":null}\n' % (_new_id(), named, response)
    code = code_of(status, parsed) if status >= FIRST_REFUSAL else None
    return Answer(line, code, _tokens(parsed) if code is None else 0)


def failed(line: Line, custom_id: str | None, code: str, message: str) -> Answer:
    """Return the line of a request that has no answer by HTTP."""
    error = {"code": code, "message": message, "line": line.number}
    content = {"id": _new_id().decode(), "custom_id": custom_id, "response": None, "error": error}
    return Answer(orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE), code)


def refused(line: Line, wrong: WrongLine) -> Answer:
    """Return the line of one that was never sent."""
    return failed(line, wrong.custom_id, wrong.code, str(wrong))


def parse_output_record(content: bytes) -> OutputRecord | None:
    """Read a line of OUT; None if it is no such line."""
    fields = parse_json(content)
    if not isinstance(fields, dict):
        return None
    custom_id, response, error = (fields.get(name) for name in ("custom_id", "response", "error"))
    if isinstance(response, dict) and isinstance(custom_id, str) and isinstance(response.get("status_code"), int):
        status = response["status_code"]
        return OutputRecord(custom_id, None, code_of(status, response.get("body")) if status >= FIRST_REFUSAL else None)
    if not isinstance(error, dict) or not isinstance(error.get("line"), int):
        return None
    code = str(error.get("code"))
    if not isinstance(custom_id, str) or code == DUPLICATE:
        return OutputRecord(None, error["line"], code)
    return OutputRecord(custom_id, None, code)


def code_of(status: int, body: Any) -> str:
    """Return the word by which an error is counted: OpenAI's code, or else the status."""
    error = body.get("error") if isinstance(body, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else f"http_{status}"


def parse_json(content: bytes) -> Any:
    """Return what JSON says; None if it is none."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _tokens(body: Any) -> int:
    usage = body.get("usage") if isinstance(body, dict) else None
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) else 0


def _new_id() -> bytes:
    return b"batch_req_" + uuid.uuid4().hex.encode()
