"""Waiting for an unavailable server, shared by all requests of a client. Knows errors and time. Sends nothing."""

from __future__ import annotations

import threading
from time import monotonic

from sostenuto._errors import APIError, ConnectionFailed, InvalidArgument, NotReady, SostenutoError

_UNAVAILABLE_STATUSES = frozenset({429, 502, 503})


class WaitForReady:
    """A policy that waits for an unavailable server instead of raising an error, like gRPC's option of that name.

    Pass it to `Client`. All requests wait together: none gives up while others get responses. Waits do not count
    against `max_retries`, unless a request repeatedly loses its connection while others get responses. Thread-safe;
    several clients of one server may share it.

    Args:
        timeout_s: float. Seconds without a response to any request after which all waiting requests raise NotReady.

    Attributes:
        last_error: SostenutoError or None. The latest error of any request; None after a response.
        num_responses: int. Number of responses so far.

    Raises:
        InvalidArgument: `timeout_s` is not above 0.
    """

    def __init__(self, timeout_s: float) -> None:
        """Start without an error."""
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s is {timeout_s!r}: pass seconds above 0")
        self.last_error: SostenutoError | None = None
        self.num_responses = 0
        self._timeout_s = timeout_s
        self._unavailable_since = 0.0
        self._lock = threading.Lock()

    def is_unavailable(self, error: SostenutoError) -> bool:
        """Return whether to wait after an error: a failed connection, or status 429, 502 or 503.

        Subclasses may add others.
        """
        return (isinstance(error, ConnectionFailed) and error.retryable) or (
            isinstance(error, APIError) and error.status in _UNAVAILABLE_STATUSES
        )

    def record_response(self) -> None:
        """Record that a request got a response."""
        with self._lock:
            self.last_error = None
            self.num_responses += 1

    def record_error(self, error: SostenutoError) -> float:
        """Record what a request waits for, and return the seconds that it may wait.

        Raises:
            NotReady: the server was unavailable for `timeout_s`.
        """
        now = monotonic()
        with self._lock:
            if self.last_error is None:
                self._unavailable_since = now
            self.last_error = error
            left_s = self._unavailable_since + self._timeout_s - now
        if left_s <= 0:
            raise NotReady(f"the server was unavailable for {self._timeout_s:g} s; the last error: {error}") from error
        return left_s
