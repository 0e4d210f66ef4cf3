"""Every error that this package raises, in one tree.

::

    SostenutoError
    ├── InvalidArgument             an argument or environment variable is invalid (also a ValueError)
    ├── ClientClosed                the client is closed (also a RuntimeError)
    ├── ConnectionFailed            connecting failed, or the connection was lost before the response was complete
    │   └── WrongScheme             base_url has https:// for a server without TLS, or http:// for one with TLS
    ├── Timeout                     connected, but the read timeout expired, or the TLS handshake took too long
    ├── NotReady                    the server stayed unavailable for the timeout of `WaitForReady`
    ├── UnexpectedResponse          the response is not from this API
    ├── StreamInterrupted           a stream was interrupted before its end
    │   └── ResumptionFailed        and could not be resumed exactly
    ├── JobFailed                   a training job failed
    │   └── JobCancelled            or was cancelled
    ├── JobUnfinished               a training job has not ended within the timeout of `Job.wait` (also a TimeoutError)
    └── APIError                    the server returned an error
        ├── BadRequest              400, 422: a field is invalid
        │   ├── BodyTooLarge        413: the request body exceeds the limit
        │   ├── HostNotAllowed      421: the host in base_url is not among the server's allowed hosts
        │   └── StateRefused        400, 403, 410: the resume token is rejected; `code` says why
        ├── Unauthorized            401: missing or invalid API key
        ├── Forbidden               403: the server or a proxy refuses the request
        │   ├── CrossOrigin         a web page of another origin sent the request
        │   └── MissingRole         the API key does not have the endpoint's role
        ├── NotFound                404: no such endpoint, file or job
        │   ├── ModelNotFound       no such model, or none of its versions is served
        │   └── TrainingDisabled    the server does not train
        ├── MethodNotAllowed        405: the endpoint does not support the method
        ├── BodyTimeout             408: the request body did not arrive in time
        ├── Conflict                409: the state of a job does not allow the action
        ├── TooManyRequests         429
        │   ├── Overloaded          the server's queue is full
        │   │   └── MemoryExhausted     the server's memory for requests is full
        │   ├── QuotaReached        the tenant is at its limit of jobs, minutes or bytes of files
        │   └── RateLimited         requests or tokens per minute of the API key are exhausted
        └── ServerError             500 and above
            ├── InternalError       500: a bug in the server
            │   └── TrainingFilterUnusable  the version's training filter is missing or damaged
            ├── ServiceUnavailable  503
            │   ├── ModelLoading        the model or version is not loaded yet
            │   ├── ShuttingDown        the server is shutting down; another gateway may respond
            │   ├── VersionGone         the version was unloaded during the request
            │   ├── TrainerUnavailable  no trainer has changed the model
            │   └── BackendUnavailable  no model server responds
            └── DeadlineExceeded    504: the request's `timeout_s` expired
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sostenuto._results import Choice

# Classes of the server's errors, which register themselves. A code is more specific than a status, which several errors
# share; an error inside a stream may have only a type.
BY_CODE: dict[str, type[APIError]] = {}
BY_STATUS: dict[int, type[APIError]] = {}
BY_TYPE: dict[str, type[APIError]] = {}


class SostenutoError(Exception):
    """Base class of this package's errors. The message is one line that ends with advice.

    Attributes:
        choices: tuple of Choice. Partial choices that were received before the error. If one has a `state`,
            `client.resume(state)` continues it.
        retryable: bool. Whether the same request may succeed later. The client retries such requests itself, except for
            a stream that has begun.
    """

    choices: tuple[Choice, ...] = ()
    retryable: bool = False

    @property
    def text(self) -> str:
        """The partial text of the first choice."""
        first = first_of(self.choices)
        return first.text if first else ""

    @property
    def state(self) -> str | None:
        """The resume token of the first choice, if there is one."""
        first = first_of(self.choices)
        return first.state if first else None


def first_of(choices: Iterable[Choice]) -> Choice | None:
    """Return choice 0; None if it has not begun, as in a stream others may begin first."""
    return next((choice for choice in choices if choice.index == 0), None)


class InvalidArgument(SostenutoError, ValueError):
    """An argument of the client or one of its environment variables is invalid. Nothing was sent."""


class ClientClosed(SostenutoError, RuntimeError):
    """The client was closed before the request was sent."""


class ConnectionFailed(SostenutoError):
    """Connecting failed or timed out, or the connection was lost before the response was complete.

    Attributes:
        was_connected: bool. Whether there was a connection, so that the server may have received the request.
    """

    retryable = True
    was_connected: bool = True


class WrongScheme(ConnectionFailed):
    """`base_url` has https:// for a server without TLS, or http:// for one with TLS. It is not retried."""

    retryable = False


class Timeout(SostenutoError):
    """The server accepted the connection, but a TLS handshake or the next byte took too long. It is not retried."""


class NotReady(SostenutoError):
    """No request got a response within the timeout of `WaitForReady`; `__cause__` is the last error."""


class UnexpectedResponse(SostenutoError):
    """The response is not from this API: a web page, a redirect, or JSON of another shape."""


class StreamInterrupted(SostenutoError):
    """A stream was interrupted before its end: the connection was lost, or no byte arrived within the read timeout."""

    retryable = True


class ResumptionFailed(StreamInterrupted):
    """An interrupted stream could not be resumed exactly: the resumed text differs."""


class JobFailed(SostenutoError):
    """A training job failed; the message says why."""


class JobCancelled(JobFailed):
    """A training job was cancelled."""


class JobUnfinished(SostenutoError, TimeoutError):
    """A training job has not ended within the timeout of `Job.wait`. It continues."""


class APIError(SostenutoError):
    """The server returned an error.

    Attributes:
        status: int or None. HTTP status; None for an error inside a stream that has none.
        message: str. The server's message, on one line.
        type: str or None. Error type, such as "invalid_request_error".
        code: str or None. Error code, such as "model_not_found".
        param: str or None. The request field that caused the error.
        request_id: str or None. The `x-request-id` of the request in the server's log.
        retry_after_s: float or None. Seconds to wait before a retry, if the server sent them.
        content: bytes. The response body as received; empty for an error inside a stream.
    """

    advice: ClassVar[str] = "look up the request in the server's log"

    status: int | None = None
    message: str = ""
    type: str | None = None
    code: str | None = None
    param: str | None = None
    request_id: str | None = None
    retry_after_s: float | None = None
    content: bytes = b""

    def __init__(self, line: str = "", **details: Any) -> None:
        """Create an error from its one-line message and any of the attributes."""
        super().__init__(line)
        vars(self).update(details)

    def __init_subclass__(
        cls, *, code: str | None = None, statuses: tuple[int, ...] = (), types: tuple[str, ...] = ()
    ) -> None:
        """Register the class for the errors that it represents."""
        BY_CODE.update({code: cls} if code else {})
        BY_STATUS.update(dict.fromkeys(statuses, cls))
        BY_TYPE.update(dict.fromkeys(types, cls))


class BadRequest(APIError, statuses=(400, 422), types=("invalid_request_error",)):
    """The request is invalid (400), too large (413) or cannot be parsed (422)."""

    advice = "change the request"


class BodyTooLarge(BadRequest, statuses=(413,)):
    """The request body exceeds the server's limit (413)."""

    advice = "send less at once"


class HostNotAllowed(BadRequest, code="host_not_allowed"):
    """The host in `base_url` is not among the server's allowed hosts (421)."""

    advice = "use localhost or an IP address in base_url, or add the host to the server's SOSTENUTO_ALLOWED_HOSTS"


class StateRefused(BadRequest):
    """The server rejects the resume token (400, 403, 410).

    Attributes:
        code: str. The reason: "state_malformed" (no resume token, or truncated), "state_key_unknown" (signed with
            another server's or a retired key), "state_altered" (its signature does not match), "state_foreign" (issued
            to another tenant), "state_expired" (too old), "state_of_another_model" (the request names another model),
            or "state_outdated" (its model version is no longer served).
    """

    advice = "send the text so far as prompt instead"


for _reason in ("malformed", "key_unknown", "altered", "foreign", "expired", "of_another_model", "outdated"):
    BY_CODE[f"state_{_reason}"] = StateRefused


class Unauthorized(APIError, statuses=(401,), types=("authentication_error",)):
    """The API key is missing or invalid (401)."""

    advice = "pass a valid api_key or set SOSTENUTO_API_KEY"


class Forbidden(APIError, statuses=(403,), types=("permission_error",)):
    """The server, or a proxy in front of it, refuses the request (403); the subclass says why."""

    advice = "check the API key, and the proxies in front of the server"


class CrossOrigin(Forbidden, code="cross_origin"):
    """A web page of another origin sent the request."""

    advice = "call the API from a program, or serve the page from the server's own origin"


class MissingRole(Forbidden, code="missing_role"):
    """The API key does not have the role that the endpoint requires."""

    advice = "use an API key with this role"


class NotFound(APIError, statuses=(404,), types=("not_found_error",)):
    """The model, file, job or endpoint does not exist (404)."""

    advice = "compare the name or id with those that the server lists, and check base_url"


class ModelNotFound(NotFound, code="model_not_found"):
    """The model does not exist, or none of its versions is served (404)."""

    advice = "use a model that client.models() lists"


class TrainingDisabled(NotFound, code="training_disabled"):
    """The server neither trains nor changes models (404)."""

    advice = "start the server with `sostenuto serve`, or set its SOSTENUTO_TRAINING_DIR"


class MethodNotAllowed(APIError, statuses=(405,)):
    """The endpoint does not support the HTTP method (405)."""

    advice = "check base_url"


class BodyTimeout(APIError, statuses=(408,)):
    """The request body did not arrive in time (408)."""

    advice = "check the connection and try again"


class Conflict(APIError, code="conflict", statuses=(409,)):
    """The state of a job or a model does not allow the action (409)."""

    advice = "check the state of the job or model first"


class TooManyRequests(APIError, statuses=(429,), types=("rate_limit_error",)):
    """The server's queue is full, or a limit of the API key is reached (429); `retry_after_s` says when to retry."""

    advice = "try again later, or send fewer requests at once"
    retryable = True


class Overloaded(TooManyRequests, code="queue_full"):
    """The server's queue is full."""


class MemoryExhausted(Overloaded, code="memory_full"):
    """The server's memory for requests is full."""

    advice = "try again later, or send smaller requests"


class QuotaReached(TooManyRequests, code="quota_reached"):
    """The tenant is at its limit of jobs, minutes of training or bytes of files. It is not retried."""

    advice = "delete files, or wait until a job ends"
    retryable = False


class RateLimited(TooManyRequests, code="rate_limit_exceeded"):
    """The API key's requests or tokens per minute are exhausted."""


class ServerError(APIError):
    """The server failed (500 and above)."""

    advice = "try again; if it persists, look up the request in the server's log"
    retryable = True


class InternalError(ServerError, statuses=(500,)):
    """The server failed because of a bug (500); its log has the traceback under `request_id`."""


class TrainingFilterUnusable(InternalError, code="training_filter_unusable"):
    """The training filter of the version is missing or damaged (500); the server's log says how."""


class ServiceUnavailable(ServerError, statuses=(503,), types=("overloaded_error", "service_unavailable")):
    """The server cannot accept requests now: it is starting, shutting down, or has no model server (503)."""

    advice = "try again later"


class ModelLoading(ServiceUnavailable, code="model_loading"):
    """The model or version is not loaded yet, or the server has just started."""


class ShuttingDown(ServiceUnavailable, code="shutting_down"):
    """The server is shutting down; another gateway, or the restarted one, may respond."""


class VersionGone(ServiceUnavailable, code="version_gone"):
    """The model version was unloaded during the request."""

    advice = "send the request again: it gets another version"


class TrainerUnavailable(ServiceUnavailable, code="trainer_unavailable"):
    """No trainer has begun to change or delete a model in time; nothing was changed."""

    advice = "check that a trainer runs"


class BackendUnavailable(ServiceUnavailable, code="backend_unavailable"):
    """No model server responds to the gateway."""


class DeadlineExceeded(ServerError, code="deadline_exceeded", statuses=(504,)):
    """The request's `timeout_s` expired (504)."""

    advice = "raise timeout_s or request fewer tokens"
