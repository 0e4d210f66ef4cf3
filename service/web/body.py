"""Reading a request's body to its end, and no further than its bound.

Knows Flask and what gunicorn raises. Does not know what a body says.
"""

from flask import request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it has no types
from werkzeug.exceptions import RequestEntityTooLarge

from service.errors import InvalidRequest


def read_body() -> bytes:
    """Read the body; its bound is the app's MAX_CONTENT_LENGTH.

    Raises:
        InvalidRequest: it is empty, shorter than announced, compressed, or its chunks are not well formed.
        RequestEntityTooLarge: it is longer than the bound.
    """
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise InvalidRequest(f"Content-Encoding must be identity or absent, got {encoding[:40]!r}")
    try:
        body = request.get_data(cache=False)
        # Of a body in chunks, werkzeug reads as much as is allowed and does not look whether there is more.
        if request.content_length is None and request.environ["wsgi.input"].read(1):
            raise RequestEntityTooLarge
    except ParseException as error:
        raise InvalidRequest(f"the body's chunks are not well formed: {type(error).__name__}") from error
    if not body:
        raise InvalidRequest("the body must be JSON, got nothing")
    if len(body) < (request.content_length or 0):
        raise InvalidRequest(
            f"the body must have the {request.content_length} bytes that Content-Length announces, got {len(body)}"
        )
    return body
