"""Every error that a client can see, with its HTTP status and its OpenAI type.

GatewayError
├── InvalidRequest      400  a field is wrong; `param` names it
│   └── StateRefused    400  a state token that cannot be gone on with; one class for each reason
├── Unauthorized        401  no key, or none that is valid
├── CrossOrigin         403  a web page of another origin sends it
├── ModelNotFound       404  no such model, or none of its versions is served
├── NotFound            404  no such address
├── MethodNotAllowed    405  the address exists, for another method
├── BodyTimeout         408  the body did not come
├── BodyTooLarge        413  more bytes than one request may have
├── HostNotAllowed      421  the Host header names another server
├── Overloaded          429  the queue is full; try again after `retry_after_s`
│   └── MemoryExhausted 429  the memory for requests is full; likewise
├── RateLimited         429  the key's requests or tokens per minute are used up; try again after `retry_after_s`
├── ClientGone          499  nobody is there to read the answer; nginx's number for it
├── InternalError       500  our fault
├── ShuttingDown        503  the server drains; another replica may answer
├── ModelLoading        503  the model, or the version, is not served yet; try again after `retry_after_s`
├── VersionGone         503  the version was taken out of service while the text was in the making
├── BackendUnavailable  503  no model server answers
│   ├── ServerBusy      503  it has more calls than it takes
│   └── InvalidResponse 503  it returned what no model computes
└── DeadlineExceeded    504  the request's own time was over
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar


class GatewayError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        type: OpenAI's class of error.
        code: A word that programs can compare, or None.
        param: The field that was wrong, or None.
        retry_after_s: Seconds after which trying again makes sense, or None.
        should_retry: Whether the same request, sent again, may succeed; None leaves it to the client, which judges by
            the status.
        rest: What had been made of the request when it failed: `choices` and `usage`, as JSON has them.
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
        """Drop the traceback and the causes, once the error is handled.

        Their frames hold the request's body and prompts, and what holds the error is often held by them: such a cycle
        is freed by the next full garbage collection alone. 50 refused bodies of 4 MB held 2.7 GB (measured).
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object, and beside it what had been made."""
        body: dict[str, Any] = {
            "error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        }
        return {**body, **self.rest}

    def headers(self) -> dict[str, str]:
        """Return the headers by which OpenAI's clients decide whether and when to try again."""
        headers = {}
        if self.retry_after_s is not None:
            headers = {"Retry-After": str(self.retry_after_s), "retry-after-ms": str(1000 * self.retry_after_s)}
        if self.should_retry is not None:
            headers["x-should-retry"] = str(self.should_retry).lower()
        return headers


class InvalidRequest(GatewayError):
    """A field is missing, of the wrong type or out of its bounds."""

    status = 400
    type = "invalid_request_error"


class StateRefused(InvalidRequest):
    """A state token cannot be gone on with."""

    def __init__(self, message: str) -> None:
        super().__init__(message, param="state")


class StateMalformed(StateRefused):
    """It is no token, or not a whole one."""

    code = "state_malformed"


class StateOfUnknownKey(StateRefused):
    """It was signed with a key that is not in force here."""

    code = "state_key_unknown"


class StateAltered(StateRefused):
    """It is not what was signed."""

    code = "state_altered"


class StateForeign(StateRefused):
    """It was given to another tenant."""

    status = 403
    type = "permission_error"
    code = "state_foreign"


class StateExpired(StateRefused):
    """It is too old."""

    code = "state_expired"


class StateOfAnotherModel(StateRefused):
    """The request names another model."""

    code = "state_of_another_model"


class StateOutdated(StateRefused):
    """The version that it is of is no longer served."""

    status = 410
    code = "state_outdated"


class Unauthorized(GatewayError):
    """No key, or none that is valid."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        """Name the scheme, as RFC 9110 section 11.6.1 asks for."""
        return {**super().headers(), "WWW-Authenticate": 'Bearer realm="ostinato"'}


class CrossOrigin(GatewayError):
    """A web page of another origin sends it."""

    status = 403
    type = "permission_error"
    code = "cross_origin"


class ModelNotFound(GatewayError):
    """No such model, or none of its versions is served."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotFound(GatewayError):
    """No such address."""

    status = 404
    type = "invalid_request_error"


class MethodNotAllowed(GatewayError):
    """The address exists, for another method."""

    status = 405
    type = "invalid_request_error"


class BodyTimeout(GatewayError):
    """The body did not come within the worker's patience."""

    status = 408
    type = "invalid_request_error"


class BodyTooLarge(GatewayError):
    """More bytes than one request may have."""

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
    """Requests in flight hold all of the memory that is meant for them."""

    code = "memory_full"


class RateLimited(GatewayError):
    """The key's requests or tokens per minute are used up."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ClientGone(GatewayError):
    """The client has closed its connection, or the sending half of it."""

    status = 499
    type = "invalid_request_error"
    code = "client_gone"


class InternalError(GatewayError):
    """Our fault; the log has the trace."""


class ShuttingDown(GatewayError):
    """The server drains."""

    status = 503
    code = "shutting_down"


class ModelLoading(GatewayError):
    """The model or the version is being loaded or probed, or it is not known yet what is served."""

    status = 503
    code = "model_loading"

    def __init__(self, message: str) -> None:
        # A worker probes two small models within two seconds; clients try two or three times.
        super().__init__(message, param="model", retry_after_s=2)


class VersionGone(GatewayError):
    """The version was taken out of service while the text was in the making; sent again, it gets the next one."""

    status = 503
    code = "version_gone"


def version_gone() -> VersionGone:
    """Return the error with what to do."""
    return VersionGone("the version of the model is no longer served; send the request again", retry_after_s=1)


class BackendUnavailable(GatewayError):
    """No model server answers."""

    status = 503
    code = "backend_unavailable"


class ServerBusy(BackendUnavailable):
    """The model server has more calls than it takes."""


class InvalidResponse(BackendUnavailable):
    """A backend's response cannot be parsed, or holds values that no model computes. A healthy one may answer."""


class DeadlineExceeded(GatewayError):
    """The request's own time was over; sent again it would most likely be so again."""

    status = 504
    type = "timeout_error"
    code = "deadline_exceeded"
    should_retry = False
