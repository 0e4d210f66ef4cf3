"""The client of the gateway: the SDK, with a batch's rules for which errors fail a line and which end the run."""

from __future__ import annotations

from functools import partial

import sostenuto
from sostenuto._batch.errors import LineError, Stopped
from sostenuto._batch.formats import OutputFormat, OutputLine, error_line
from sostenuto._batch.requests_file import BatchRequest, Line, parse
from sostenuto._settings import Settings

CONNECT_TIMEOUT_S = 10.0
STATUS_TIMEOUT_S = 30.0
# A gateway with a shorter uptime may not have loaded all of its models yet.
SETTLING_S = 60.0


class BatchClient:
    """A client of the gateway. Thread-safe. All requests wait together for a gateway that is unavailable.

    Args:
        settings: Complete settings of the SDK, as workers on other machines have another environment.
        give_up_after_s: Seconds without any response after which the run ends.
    """

    def __init__(self, settings: Settings, give_up_after_s: float) -> None:
        """Prepare the requests; nothing is sent."""
        connect = partial(
            sostenuto.Client, settings.base_url, api_key=settings.api_key or "", max_retries=settings.max_retries
        )
        self._timeout_s = settings.timeout[1]
        # Not with the shared wait: a status response is not a response to a line.
        self._status_client = connect(timeout=(CONNECT_TIMEOUT_S, STATUS_TIMEOUT_S))
        self._wait = _WaitForModels(give_up_after_s, self._status_client)
        self._client = connect(timeout=settings.timeout, wait_for_ready=self._wait)

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
            code, message = "timeout", f"no response within --timeout of {self._timeout_s:g} s; not retried"
        except sostenuto.ConnectionFailed as error:
            code = "connection_lost"
            message = f"its connection was lost repeatedly while other requests succeeded: {error}"
        except sostenuto.UnexpectedResponse as error:
            code, message = "not_json", str(error)
        except sostenuto.SostenutoError as error:  # NotReady, or ClientClosed at the end of the run
            raise Stopped(str(error)) from None
        raise LineError(code, message, request.custom_id)

    def close(self) -> None:
        """Wake all waiting threads, and send nothing more."""
        self._client.close()
        self._status_client.close()


class _WaitForModels(sostenuto.WaitForReady):
    """Also waits for a model that may be loaded soon."""

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


def process_line(line: Line, client: BatchClient, output_format: OutputFormat) -> OutputLine:
    """Send the request of a line of IN and return its line of OUT; raise Stopped if no line would get a response."""
    try:
        request = parse(line)
        _require_url(request, output_format)
        response = client.send(request)
        return output_format.serialize(request.custom_id, response.status, response.request_id, response.content)
    except LineError as error:
        return error_line(line, error)


def _require_url(request: BatchRequest, output_format: OutputFormat) -> None:
    """Raise LineError if the format cannot represent the response to a request."""
    if request.url not in output_format.urls:
        urls = " or ".join(output_format.urls)
        message = f"url must be {urls} with --format {output_format.name}, got {request.url}"
        raise LineError("invalid_url", message, request.custom_id)
