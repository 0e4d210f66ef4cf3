"""Reading a request's body to its end, and no further than its bound.

Knows Flask and what gunicorn raises. Does not know what a body says.
"""

from flask import request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it has no types
from werkzeug.exceptions import RequestEntityTooLarge

from service.errors import InvalidRequest
from service.memory import MemoryLease
from service.process.chunks import ChunksTooSmall

# Copies of a body while it is read: gunicorn's buffer, Werkzeug's, and the bytes that are returned.
_READING_COPIES = 3
# JSON while it is parsed, as the parser's values and as Python's (measured: 46 and 77 for ids, 116 for lists of lists).
# Text that is not ASCII has up to four bytes a character.
_BYTES_PER_ITEM, _BYTES_PER_BRACKET, _TEXT_COPIES = 80, 100, 2


def read_body(memory: MemoryLease) -> bytes:
    """Read the body; its bound is the app's MAX_CONTENT_LENGTH.

    Args:
        memory: Holds what it takes to read the body, and then what it takes to parse it.

    Raises:
        InvalidRequest: it is empty, shorter than announced, compressed, or its chunks are not well formed or too small.
        MemoryExhausted: other requests hold too much memory.
        RequestEntityTooLarge: it is longer than the bound.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest(f"Content-Encoding must be identity or absent, got {encoding[:40]!r}")
    announced, bound = request.content_length, request.max_content_length or 0
    memory.hold(_READING_COPIES * min(bound, bound if announced is None else announced), "the body")
    try:
        body = request.get_data(cache=False)
        # Of a body in chunks, werkzeug reads as much as is allowed and does not look whether there is more.
        if request.content_length is None and request.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
    except ChunksTooSmall as error:
        raise InvalidRequest(str(error)) from error
    except ParseException as error:
        raise InvalidRequest(f"the body's chunks are not well formed: {type(error).__name__}") from error
    if not body:
        raise InvalidRequest("the body must be JSON, got nothing")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(
            f"the body must have the {request.content_length} bytes that Content-Length announces, got {len(body)}"
        )
    memory.hold(parsing_bytes(body), "the body")
    return body


def parsing_bytes(body: bytes) -> int:
    """Return how much memory it takes at most to parse a body, itself and the outcome included."""
    width = 1 if body.isascii() and b"\\u" not in body else 4
    num_brackets = body.count(b"[") + body.count(b"{")
    num_values = _BYTES_PER_ITEM * body.count(b",") + _BYTES_PER_BRACKET * num_brackets
    return (1 + _TEXT_COPIES * width) * len(body) + num_values
