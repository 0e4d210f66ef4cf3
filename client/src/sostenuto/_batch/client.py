"""The client of the gateway: the SDK, with the rules of a batch for what fails a line and what ends the run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import sostenuto
from sostenuto._batch.errors import LineError, Stopped, UsageError
from sostenuto._batch.requests_file import BatchRequest

CONNECT_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 30.0
MAX_RETRIES = 3
# A gateway with a shorter uptime may not have loaded all of its models yet.
SETTLING_S = 60.0


@dataclass(frozen=True)
class ClientOptions:
    """How to reach the gateway.

    Attributes:
        base_url: With or without /v1 at its end.
        api_key: Empty for none.
        timeout_s: Timeout of one response in seconds.
        give_up_after_s: Seconds without any response after which the run ends.
        max_retries: Of a request whose failure appears to be its own.
    """

    base_url: str
    api_key: str = field(repr=False)
    timeout_s: float
    give_up_after_s: float
    max_retries: int = MAX_RETRIES


class BatchClient:
    """A client of the gateway. Thread-safe. All requests wait together for a gateway that is unavailable."""

    def __init__(self, options: ClientOptions) -> None:
        """Prepare the requests; nothing is sent.

        Raises:
            UsageError: the base URL or the API key is invalid.
        """
        self._options = options
        connect = partial(sostenuto.Client, options.base_url, api_key=options.api_key, max_retries=options.max_retries)
        try:
            # Not with the shared wait: a response with the status is no response to a line.
            self._status_client = connect(timeout=(CONNECT_TIMEOUT_S, STATUS_TIMEOUT_S))
            self._wait = _WaitForModels(options.give_up_after_s, self._status_client)
            self._client = connect(timeout=(CONNECT_TIMEOUT_S, options.timeout_s), wait_for_ready=self._wait)
        except sostenuto.InvalidArgument as error:
            message = str(error).replace("base_url", "--base-url").replace("api_key", "SOSTENUTO_API_KEY")
            raise UsageError(message) from None

    @property
    def trouble(self) -> str | None:
        """The error that requests wait for, or None."""
        error = self._wait.last_error
        return None if error is None else str(error)

    def num_free(self) -> int:
        """Return how many more sequences the gateway would admit; wait while it is unavailable.

        Raises:
            Stopped: it stays unavailable, refuses the key or is not a gateway.
        """
        try:
            status = self._client.status()
        except sostenuto.SostenutoError as error:
            raise Stopped(str(error)) from None
        return max(1, status.max_sequences - status.num_sequences)

    def send(self, request: BatchRequest) -> sostenuto.RawResponse:
        """Send a request, with retries, and return its response, success or error.

        Raises:
            LineError: this line gets no response.
            Stopped: no line would get one.
        """
        try:
            return self._client.post(request.url, request.body)
        except sostenuto.APIError as error:
            # A resume token of another tenant is an error of one line only; its 403 names the field.
            if error.status is None or error.status == 401 or (error.status == 403 and error.param is None):
                raise Stopped(str(error)) from None
            return sostenuto.RawResponse(error.status, error.request_id, error.content)
        except sostenuto.Timeout:
            message = f"no response within --timeout of {self._options.timeout_s:g} s; not retried"
            raise LineError("timeout", message, request.custom_id) from None
        except sostenuto.ConnectionFailed as error:
            message = f"its connection was lost repeatedly while other requests succeeded: {error}"
            raise LineError("connection_lost", message, request.custom_id) from None
        except sostenuto.UnexpectedResponse as error:
            raise LineError("not_json", str(error), request.custom_id) from None
        except sostenuto.SostenutoError as error:  # NotReady, or ClientClosed at the end of the run
            raise Stopped(str(error)) from None

    def close(self) -> None:
        """Wake all threads that wait, and send nothing more."""
        self._client.close()
        self._status_client.close()


class _WaitForModels(sostenuto.WaitForReady):
    """Waits also for a model that may be loaded soon."""

    def __init__(self, timeout_s: float, status_client: sostenuto.Client) -> None:
        super().__init__(timeout_s)
        self._status_client = status_client

    def is_unavailable(self, error: sostenuto.SostenutoError) -> bool:
        """Return whether the gateway is unavailable, has just started, or serves no model."""
        if not isinstance(error, sostenuto.ModelNotFound):
            return super().is_unavailable(error)
        try:
            status = self._status_client.status().raw
        except sostenuto.SostenutoError:
            return True
        return not status.get("models", True) or status.get("uptime_s", SETTLING_S) < SETTLING_S
