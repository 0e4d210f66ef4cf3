"""Every error that a client can see, with its HTTP status, and the operator's `ConfigurationError`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import click

# OpenAI's error type by status; of other statuses it is invalid_request_error or server_error.
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 504: "timeout_error"}


class GatewayError(Exception):
    """Base class of the errors that a client can see; `param` is the invalid field, if there is one."""

    status: int = 500
    code: str | None = None  # for programs
    should_retry: bool | None = None  # whether a retry may succeed; None: the client decides by the status
    rest: Mapping[str, Any] = MappingProxyType({})  # the partial output: `choices` and `usage` as in the response

    def __init_subclass__(cls, status: int | None = None, code: str | None = None) -> None:
        """Set the status and the code of a subclass that differ from its base."""
        cls.status = status or cls.status
        cls.code = code or cls.code

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def type(self) -> str:
        """OpenAI's error type."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

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


class InvalidRequest(GatewayError, status=400):
    """A field is missing, of the wrong type or outside its limits."""


# Reasons for which a resume token is refused, as the error's code, and their status.
STATE_CODES = {
    "state_malformed": 400,  # malformed or truncated
    "state_key_unknown": 400,  # signed with a key that this gateway does not accept
    "state_altered": 400,  # its signature does not match
    "state_foreign": 403,  # issued to another tenant
    "state_expired": 400,
    "state_of_another_model": 400,  # the request names another model
    "state_outdated": 410,  # its model version is no longer served
}


class StateRefused(InvalidRequest):
    """A resume token cannot be resumed from; `code` is the reason, one of `STATE_CODES`."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message, param="state")
        self.code, self.status = code, STATE_CODES[code]


class Unauthorized(GatewayError, status=401, code="invalid_api_key"):
    """The API key is missing or invalid."""

    def headers(self) -> dict[str, str]:
        """Add the authentication scheme, as RFC 9110 section 11.6.1 requires."""
        return {**super().headers(), "WWW-Authenticate": 'Bearer realm="sostenuto"'}


class CrossOrigin(GatewayError, status=403, code="cross_origin"):
    """The request was sent by a web page of another origin."""


class MissingRole(GatewayError, status=403, code="missing_role"):
    """The API key lacks the role that the endpoint, or the change of a model, requires."""


class ModelNotFound(GatewayError, status=404, code="model_not_found"):
    """The model does not exist, or none of its versions is served."""


class NotFound(GatewayError, status=404):
    """The endpoint, file or job does not exist."""


class TrainingDisabled(NotFound, code="training_disabled"):
    """This server has no trainer."""


class Conflict(GatewayError, status=409, code="conflict"):
    """The state of a job or a model does not allow the action."""

    should_retry = False


class MethodNotAllowed(GatewayError, status=405):
    """The endpoint does not allow the method."""


class BodyTimeout(GatewayError, status=408):
    """The head or the body did not arrive within the worker's time-out."""


class BodyTooLarge(GatewayError, status=413):
    """The body exceeds the limit."""


class HostNotAllowed(GatewayError, status=421, code="host_not_allowed"):
    """The Host header names another server."""


class Overloaded(GatewayError, status=429, code="queue_full"):
    """The queue is full."""


class MemoryExhausted(Overloaded, code="memory_full"):
    """Requests in flight hold the whole memory budget."""


class RateLimited(GatewayError, status=429, code="rate_limit_exceeded"):
    """The key's requests or tokens per minute are used up."""


class QuotaReached(GatewayError, status=429, code="quota_reached"):
    """The tenant is at its limit of files, jobs or minutes of training; it must delete files or wait."""

    should_retry = False


class ClientGone(GatewayError, status=499, code="client_gone"):
    """The client has closed its connection, or its sending half."""

    def __init__(self) -> None:
        super().__init__("the client closed its connection, or the sending half of it")


class InternalError(GatewayError):
    """An unexpected error; the log has the traceback."""


class TrainingFilterUnusable(InternalError, code="training_filter_unusable"):
    """The training filter of the version is missing or damaged; the log says how."""

    should_retry = False


class ShuttingDown(GatewayError, status=503, code="shutting_down"):
    """The server is draining."""


class TrainerUnavailable(GatewayError, status=503, code="trainer_unavailable"):
    """No trainer has begun an operation on the model repository in time; nothing was changed."""


class ModelLoading(GatewayError, status=503, code="model_loading"):
    """The model or the version is being loaded or probed, or the served models are not known yet."""

    def __init__(self, message: str) -> None:
        # A worker probes two small models within two seconds; clients retry two or three times.
        super().__init__(message, param="model", retry_after_s=2)


class VersionGone(GatewayError, status=503, code="version_gone"):
    """The version was unloaded while the sequence was generated; a retry gets the next version."""

    def __init__(self, message: str = "the version of the model is no longer served; send the request again") -> None:
        super().__init__(message, retry_after_s=1)


class BackendUnavailable(GatewayError, status=503, code="backend_unavailable"):
    """No backend serves the version at the moment."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=2)


class ServerBusy(BackendUnavailable):
    """The backend rejected the call without computing it; it has more calls than it accepts."""

    reason: ClassVar[str] = "busy"  # the metric's label


class BatchingConflict(ServerBusy):
    """The backend merged the call with calls of other shapes, because of `--enable_batching`, and rejected all."""

    reason = "batching"


class InvalidResponse(BackendUnavailable):
    """A backend's response cannot be parsed or has values that no model computes; other backends may be healthy."""


class DeadlineExceeded(GatewayError, status=504, code="deadline_exceeded"):
    """The request exceeded its own time-out; a retry would most likely do so too."""

    should_retry = False


class ConfigurationError(click.ClickException):
    """A setting or a file that it names is unusable: an operator's error; a one-line message without any secret."""
