"""Every error that this package raises, in one tree. It knows what an error says, not how one is recognised.

OstinatoError
├── InvalidArgument         what was passed to the client cannot be sent (also a ValueError)
├── ConnectionFailed        no connection could be made, or it was lost before the answer was complete
├── Timeout                 connected, but no byte of the answer came in time
├── UnexpectedAnswer        something answered that does not speak this API
├── StreamInterrupted       a stream stopped before its end
└── APIError                the server refused or failed, and said so
    ├── BadRequest          400, 413, 422
    ├── Unauthorized        401
    ├── Forbidden           403
    ├── NotFound            404
    ├── TooManyRequests     429
    └── ServerError         500 and above
        └── ServiceUnavailable  503
"""

from __future__ import annotations

from typing import Any, ClassVar


class OstinatoError(Exception):
    """Anything that goes wrong in this package. Its text is one line that ends with what to do."""


class InvalidArgument(OstinatoError, ValueError):
    """What was passed to the client, or stands in its environment, cannot be sent to any server."""


class ConnectionFailed(OstinatoError):
    """No connection could be made, in time or at all, or it was lost before the answer was complete."""


class Timeout(OstinatoError):
    """The server took the request, and no byte of an answer came within the read timeout. It is not sent again."""


class UnexpectedAnswer(OstinatoError):
    """An answer came that is not this API's: a web page, a redirect, or JSON of another shape."""


class StreamInterrupted(OstinatoError):
    """A stream stopped before its end: the connection was lost, or fell silent for the read timeout.

    Attributes:
        text: str. What had come of the first choice's text.
    """

    def __init__(self, line: str = "", *, text: str = "") -> None:
        """Make an error out of its one line and the text so far."""
        super().__init__(line)
        self.text = text


class APIError(OstinatoError):
    """The server refused the request or failed at it, and said so in its own words.

    Attributes:
        status: int or None. The HTTP status; None if the error came inside a stream and named none.
        message: str. The server's own words, on one line.
        type: str or None. The kind of error, such as "invalid_request_error".
        code: str or None. A finer name of the error, such as "model_not_found".
        param: str or None. The request's field that is at fault.
        request_id: str or None. The `x-request-id` under which the server's log has the request.
        retry_after_s: float or None. The seconds that the server asks to wait before trying again.
        retryable: bool. Whether the same request may succeed later.
    """

    advice: ClassVar[str] = "look up the request in the server's log"

    status: int | None = None
    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    retryable: bool = False

    def __init__(self, line: str = "", **details: Any) -> None:
        """Make an error out of its one line and any of the attributes."""
        super().__init__(line)
        vars(self).update(details)


class BadRequest(APIError):
    """The request is wrong (400), too large (413) or cannot be understood (422)."""

    advice = "change the request"


class Unauthorized(APIError):
    """The server wants an API key, or another one (401)."""

    advice = "pass a valid api_key or set OSTINATO_API_KEY"


class Forbidden(APIError):
    """The API key is known, and may not do this (403)."""

    advice = "use an API key that has the permission"


class NotFound(APIError):
    """The server has no such model or no such address (404)."""

    advice = "compare model with client.models(), and check base_url"


class TooManyRequests(APIError):
    """The server's queue or this key's allowance is used up (429). `retry_after_s` says for how long."""

    advice = "try again later, or send fewer requests at once"


class ServerError(APIError):
    """The server failed (500 and above)."""

    advice = "try again, and if it goes on look up the request in the server's log"


class ServiceUnavailable(ServerError):
    """The server cannot take requests now: it is starting, stopping, or has no model server (503)."""

    advice = "try again in a while"
