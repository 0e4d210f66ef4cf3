"""Every error that a client can see, with its HTTP status and its OpenAI type.

GatewayError
├── InvalidRequest      400  a field is wrong; `param` names it
│   └── StateRefused    400  a resume token cannot be resumed from; one class for each reason
├── Unauthorized        401  the API key is missing or invalid
├── CrossOrigin         403  sent by a web page of another origin
├── ModelNotFound       404  no such model, or none of its versions is served
├── NotFound            404  no such endpoint
├── MethodNotAllowed    405  the endpoint does not allow the method
├── BodyTimeout         408  the body did not arrive in time
├── BodyTooLarge        413  the body exceeds the limit
├── HostNotAllowed      421  the Host header names another server
├── Overloaded          429  the queue is full; retry after `retry_after_s`
│   └── MemoryExhausted 429  the memory for requests is full; likewise
├── RateLimited         429  the key's requests or tokens per minute are used up; retry after `retry_after_s`
├── ClientGone          499  the client disconnected; nginx's status for it
├── InternalError       500  our fault
│   └── TrainingFilterUnusable 500  the training filter of the version is missing or damaged
├── ShuttingDown        503  the server is draining; another gateway may respond
├── ModelLoading        503  the model or the version is not served yet; retry after `retry_after_s`
├── VersionGone         503  the version was unloaded while the sequence was generated
├── BackendUnavailable  503  no backend responds
│   ├── ServerBusy      503  the backend has more calls than it accepts
│   │   └── BatchingConflict 503  the backend merged the call with calls of other shapes
│   └── InvalidResponse 503  the backend returned values that no model computes
└── DeadlineExceeded    504  the request exceeded its own time-out
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class GatewayError(Exception):
    """Base class of the errors that a client can see.

    Attributes:
        status: HTTP status.
        type: OpenAI's error type.
        code: Machine-readable code, or None.
        param: The invalid field, or None.
        retry_after_s: Seconds after which to retry, or None.
        should_retry: Whether the same request may succeed on a retry; None: the client decides by the status.
        rest: The partial output when the request failed: `choices` and `usage` as in the response.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    should_retry: bool | None = None
    rest: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_s = retry_after_s

    def release(self) -> None:
        """Drop traceback and causes once the error is handled.

        Their frames hold the request's body and prompts, and often refer back to the error: only the next full garbage
        collection frees such a cycle. 50 refused bodies of 4 MB held 2.7 GB (measured).
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object, with the partial output beside it."""
        body: dict[str, Any] = {
            "error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        }
        return {**body, **self.rest}

    def headers(self) -> dict[str, str]:
        """Return the headers by which OpenAI's clients decide whether and when to retry."""
        headers = {}
        if self.retry_after_s is not None:
            headers = {"Retry-After": str(self.retry_after_s), "retry-after-ms": str(1000 * self.retry_after_s)}
        if self.should_retry is not None:
            headers["x-should-retry"] = str(self.should_retry).lower()
        return headers


class InvalidRequest(GatewayError):
    """A field is missing, of the wrong type or outside its limits."""

    status = 400
    type = "invalid_request_error"


class StateRefused(InvalidRequest):
    """A resume token cannot be resumed from."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="state")


class StateMalformed(StateRefused):
    """The token is malformed or truncated."""

    code = "state_malformed"


class StateOfUnknownKey(StateRefused):
    """The token was signed with a key that this gateway does not accept."""

    code = "state_key_unknown"


class StateAltered(StateRefused):
    """The token's signature does not match."""

    code = "state_altered"


class StateForeign(StateRefused):
    """The token was issued to another tenant."""

    status = 403
    type = "permission_error"
    code = "state_foreign"


class StateExpired(StateRefused):
    """The token has expired."""

    code = "state_expired"


class StateOfAnotherModel(StateRefused):
    """The request names another model."""

    code = "state_of_another_model"


class StateOutdated(StateRefused):
    """The token's model version is no longer served."""

    status = 410
    code = "state_outdated"


class Unauthorized(GatewayError):
    """The API key is missing or invalid."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Add the authentication scheme, as RFC 9110 section 11.6.1 requires."""
        return {**super().headers(), "WWW-Authenticate": 'Bearer realm="sostenuto"'}


class CrossOrigin(GatewayError):
    """The request was sent by a web page of another origin."""

    status = 403
    type = "permission_error"
    code = "cross_origin"


class ModelNotFound(GatewayError):
    """The model does not exist, or none of its versions is served."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotFound(GatewayError):
    """The endpoint does not exist."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(GatewayError):
    """The endpoint does not allow the method."""

    status = 405
    type = "invalid_request_error"


class BodyTimeout(GatewayError):
    """The body did not arrive within the worker's time-out."""

    status = 408
    type = "invalid_request_error"


class BodyTooLarge(GatewayError):
    """The body exceeds the limit."""

    status = 413
    type = "invalid_request_error"


class HostNotAllowed(GatewayError):
    """The Host header names another server."""

    status = 421
    type = "invalid_request_error"
    code = "host_not_allowed"


class Overloaded(GatewayError):
    """The queue is full."""

    status = 429
    type = "rate_limit_error"
    code = "queue_full"


class MemoryExhausted(Overloaded):
    """Requests in flight hold the whole memory budget."""

    code = "memory_full"


class RateLimited(GatewayError):
    """The key's requests or tokens per minute are used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ClientGone(GatewayError):
    """The client has closed its connection, or its sending half."""

    status = 499
    type = "invalid_request_error"
    code = "client_gone"

    def __init__(self) -> None:
        super().__init__("the client closed its connection, or the sending half of it")


class InternalError(GatewayError):
    """An unexpected error; the log has the traceback."""


class TrainingFilterUnusable(InternalError):
    """The training filter of the version is missing or damaged; the log says how."""

    code = "training_filter_unusable"
    should_retry = False


class ShuttingDown(GatewayError):
    """The server is draining."""

    status = 503
    code = "shutting_down"


class ModelLoading(GatewayError):
    """The model or the version is being loaded or probed, or the served models are not known yet."""

    status = 503
    code = "model_loading"

    def __init__(self, message: str) -> None:
        # A worker probes two small models within two seconds; clients retry two or three times.
        super().__init__(message, param="model", retry_after_s=2)


class VersionGone(GatewayError):
    """The version was unloaded while the sequence was generated; a retry gets the next version."""

    status = 503
    code = "version_gone"


def version_gone() -> VersionGone:
    """Return the error with its message."""
    return VersionGone("the version of the model is no longer served; send the request again", retry_after_s=1)


class BackendUnavailable(GatewayError):
    """No backend responds."""

    status = 503
    code = "backend_unavailable"


class ServerBusy(BackendUnavailable):
    """The backend rejected the call without computing it; it has more calls than it accepts.

    Attributes:
        reason: The metric's label.
    """

    reason: ClassVar[str] = "busy"


class BatchingConflict(ServerBusy):
    """The backend merged the call with calls of other shapes, as `--enable_batching` does, and rejected all of them."""

    reason = "batching"


class InvalidResponse(BackendUnavailable):
    """A backend's response cannot be parsed or holds values that no model computes; another backend may be healthy."""


class DeadlineExceeded(GatewayError):
    """The request exceeded its own time-out; a retry would most likely do so too."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    should_retry = False
