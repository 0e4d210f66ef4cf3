"""Every error that this package raises, in one tree. It knows what an error says, not how one is recognised.

::

    OstinatoError
    ├── InvalidArgument             what was passed to the client cannot be sent (also a ValueError)
    ├── ClientClosed                the client was closed before (also a RuntimeError)
    ├── ConnectionFailed            no connection could be made, or it was lost before the answer was complete
    ├── Timeout                     connected, but no byte of the answer came in time
    ├── UnexpectedResponse            something answered that does not speak this API
    ├── StreamInterrupted           a stream stopped before its end
    │   └── ResumptionFailed        and what the server goes on with is another text
    └── APIError                    the server refused or failed, and said so
        ├── BadRequest              400, 422: a field is wrong
        │   ├── BodyTooLarge        413: more bytes than one request may have
        │   ├── HostNotAllowed      421: the server is not known by the host in base_url
        │   └── StateRefused        a state that cannot be gone on with
        │       ├── StateMalformed          it is no token, or not a whole one
        │       ├── StateOfUnknownKey       it was signed with a key that is not in force there
        │       ├── StateAltered            it is not what was signed
        │       ├── StateForeign            403: it was given to another tenant (also a Forbidden)
        │       ├── StateExpired            it is too old
        │       ├── StateOfAnotherModel     the request names another model
        │       └── StateOutdated           410: its version of the model is no longer served
        ├── Unauthorized            401: no API key, or none that is valid
        ├── Forbidden               403: the key may not do this
        │   └── CrossOrigin         a web page of another origin sent it
        ├── NotFound                404: no such address
        │   └── ModelNotFound       no such model, or none of its versions is served
        ├── MethodNotAllowed        405: the address is for something else
        ├── BodyTimeout             408: the server waited for the request's body in vain
        ├── TooManyRequests         429
        │   ├── Overloaded          the server's queue is full
        │   │   └── MemoryExhausted     its memory for requests is full
        │   └── RateLimited         this key's requests or tokens per minute are used up
        └── ServerError             500 and above
            ├── InternalError       500: the server's fault
            ├── ServiceUnavailable  503
            │   ├── ModelLoading        the model or the version is not loaded yet
            │   ├── ShuttingDown        the server stops; another one may answer
            │   ├── VersionGone         the version was taken out of service meanwhile
            │   └── BackendUnavailable  no model server answers
            └── DeadlineExceeded    504: the request's `timeout_s` was over
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ostinato._results import Choice


class OstinatoError(Exception):
    """Anything that goes wrong in this package. Its text is one line that ends with what to do.

    Attributes:
        choices: tuple of Choice. What had come of the texts by then, as far as it is known, each with its `state` where
            the server gave one: `client.resume(state)` goes on from there.
    """

    choices: tuple[Choice, ...] = ()

    @property
    def text(self) -> str:
        """What had come of the first choice's text."""
        return self.choices[0].text if self.choices else ""

    @property
    def state(self) -> str | None:
        """The first choice's state, if there is one."""
        return self.choices[0].state if self.choices else None


class InvalidArgument(OstinatoError, ValueError):
    """What was passed to the client, or stands in its environment, cannot be sent to any server."""


class ClientClosed(OstinatoError, RuntimeError):
    """The client was closed before the request was to be sent."""


class ConnectionFailed(OstinatoError):
    """No connection could be made, in time or at all, or it was lost before the answer was complete."""


class Timeout(OstinatoError):
    """The server took the request, and no byte of an answer came within the read timeout. It is not sent again."""


class UnexpectedResponse(OstinatoError):
    """An answer came that is not this API's: a web page, a redirect, or JSON of another shape."""


class StreamInterrupted(OstinatoError):
    """A stream stopped before its end: the connection was lost, or fell silent for the read timeout."""


class ResumptionFailed(StreamInterrupted):
    """A stream that stopped before its end could not be gone on with exactly: the server had become another one."""


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


class BodyTooLarge(BadRequest):
    """The request has more bytes than the server takes (413)."""

    advice = "send fewer or shorter prompts at once"


class HostNotAllowed(BadRequest):
    """The server is not known by the host in `base_url` (421)."""

    advice = "use localhost or an IP address in base_url, or add the host to the server's OSTINATO_ALLOWED_HOSTS"


class StateRefused(BadRequest):
    """A state that the server does not go on with; the class says why."""

    advice = "send the text so far as prompt instead"


class StateMalformed(StateRefused):
    """It is no state, or not a whole one."""

    advice = "pass it exactly as it was given out"


class StateOfUnknownKey(StateRefused):
    """It was signed with a key that this server does not have: by another server, or the key was retired."""

    advice = "ask the server that gave it out, or send the text so far as prompt instead"


class StateAltered(StateRefused):
    """It is not what the server gave out."""

    advice = "pass it exactly as it was given out"


class StateExpired(StateRefused):
    """It is older than the server accepts."""


class StateOfAnotherModel(StateRefused):
    """The request names another model than the state is of."""

    advice = "leave out model, or name the one that the state is of"


class StateOutdated(StateRefused):
    """The version of the model that it is of is no longer served (410)."""


class Unauthorized(APIError):
    """The server wants an API key, or another one (401)."""

    advice = "pass a valid api_key or set OSTINATO_API_KEY"


class Forbidden(APIError):
    """The API key is known, and may not do this (403)."""

    advice = "use an API key that has the permission"


class CrossOrigin(Forbidden):
    """A web page of another origin sent the request."""

    advice = "call the API from a program, or serve the page from the server's own origin"


class StateForeign(StateRefused, Forbidden):
    """It was given to another tenant (403)."""

    advice = "use the API key that it was made with"


class NotFound(APIError):
    """The server has no such model or no such address (404)."""

    advice = "compare model with client.models(), and check base_url"


class ModelNotFound(NotFound):
    """The server has no such model, or serves none of its versions (404)."""

    advice = "take one that client.models() lists"


class MethodNotAllowed(APIError):
    """The address exists, and is for something else (405)."""

    advice = "check what base_url leads to"


class BodyTimeout(APIError):
    """The server waited for the request's body in vain (408)."""

    advice = "check the connection and try again"


class TooManyRequests(APIError):
    """The server's queue or this key's allowance is used up (429). `retry_after_s` says for how long."""

    advice = "try again later, or send fewer requests at once"


class Overloaded(TooManyRequests):
    """The server's queue is full."""


class MemoryExhausted(Overloaded):
    """The server's memory for requests is full."""

    advice = "try again later, or send smaller requests"


class RateLimited(TooManyRequests):
    """This key's requests or tokens per minute are used up."""


class ServerError(APIError):
    """The server failed (500 and above)."""

    advice = "try again, and if it goes on look up the request in the server's log"


class InternalError(ServerError):
    """The server failed by a fault of its own (500)."""


class ServiceUnavailable(ServerError):
    """The server cannot take requests now: it is starting, stopping, or has no model server (503)."""

    advice = "try again in a while"


class ModelLoading(ServiceUnavailable):
    """The model or the version is not loaded yet, or the server has just been started."""


class ShuttingDown(ServiceUnavailable):
    """The server stops; another one, or the same one started anew, may answer."""


class VersionGone(ServiceUnavailable):
    """The version of the model was taken out of service while the text was in the making."""

    advice = "send the request again: the next version answers it"


class BackendUnavailable(ServiceUnavailable):
    """No model server answers the gateway."""


class DeadlineExceeded(ServerError):
    """The request's own time, `timeout_s`, was over (504)."""

    advice = "raise timeout_s or ask for fewer tokens"
