"""Reads a request's body, which the worker has received as a whole, parses it and starts its request."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from flask import g, request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it has no types

from service.api.body import AnyBody, parse
from service.context import RequestContext
from service.engine import OnStart, Processor
from service.errors import InvalidRequest, Unauthorized
from service.generation.running_request import RunningRequest
from service.memory_budget import MemoryLease
from service.web.endpoint import Services

# Copies of a body while it is read: gunicorn's buffer, Werkzeug's, and the returned bytes.
_READING_COPIES = 3
# Bytes per JSON value while it is parsed, in the parser and in Python (measured: 46 and 77 for ids, 116 for lists of
# lists). Text that is not ASCII has up to four bytes per character.
_BYTES_PER_ITEM, _BYTES_PER_BRACKET, _TEXT_COPIES = 80, 100, 2

AnyProcessor = TypeVar("AnyProcessor", bound=Processor)


def start_request(
    services: Services,
    body_type: type[AnyBody],
    start: Callable[[AnyBody, RequestContext, OnStart], AnyProcessor],
    stack: ExitStack,
) -> AnyProcessor:
    """Parse a body and start its request, which ends with the stack.

    In its own frame, so that no frame holds the body's prompts while it runs.
    """
    services.shutdown_gate.refuse_if_draining()
    body = parse_body(services, body_type)
    g.record.record_request(body)
    return start(body, g.context, partial(_watch_request, services, stack))


def _watch_request(services: Services, stack: ExitStack, running: RunningRequest) -> None:
    """Cancel a request if its client disconnects or its key is revoked; record and close it when the stack unwinds."""
    stack.callback(g.record.record_result, running)
    stack.callback(running.close)
    stack.enter_context(g.context.watch_key(lambda: running.cancel(Unauthorized("the API key was revoked"))))
    stack.enter_context(services.watch_socket(request.environ.get("gunicorn.socket"), running.cancel))


def parse_body(services: Services, body_type: type[AnyBody]) -> AnyBody:
    """Charge the principal for one request, even if it fails, and read and parse its body."""
    g.context.charge_request()
    return parse(body_type, read_body(g.context.memory), services.settings)


def read_body(memory: MemoryLease) -> bytes:
    """Read the body; its limit is the app's MAX_CONTENT_LENGTH.

    `memory` holds the estimated bytes for reading the body, then those for parsing it.

    Raises:
        InvalidRequest: it is empty, shorter than announced or compressed, or its chunks are malformed.
        MemoryExhausted: other requests hold too much memory.
        RequestEntityTooLarge: it exceeds the limit.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest(f"Content-Encoding must be identity or absent, got {encoding[:40]!r}")
    announced, limit = request.content_length, request.max_content_length or 0
    memory.hold(_READING_COPIES * min(limit, limit if announced is None else announced), "the body")
    try:
        body = request.get_data(cache=False)
    except ParseException as error:
        raise InvalidRequest(f"the body's chunked encoding is malformed: {type(error).__name__}") from error
    if not body:
        raise InvalidRequest("the body must be JSON, got nothing")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(
            f"the body must have the {request.content_length} bytes that Content-Length announces, got {len(body)}"
        )
    memory.hold(parsing_bytes(body), "the body")
    return body


def parsing_bytes(body: bytes) -> int:
    """Return an upper estimate of the memory in bytes for parsing a body, including the body and the parsed values."""
    width = 1 if body.isascii() and b"\\u" not in body else 4
    num_brackets = body.count(b"[") + body.count(b"{")
    num_values = _BYTES_PER_ITEM * body.count(b",") + _BYTES_PER_BRACKET * num_brackets
    return (1 + _TEXT_COPIES * width) * len(body) + num_values
