"""Retries of failed requests: whether, after which wait, and what ends the wait.

A generation has no effects on the server, so a retry is always safe. A request that creates a training job is sent
again only if the server has not processed it.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from time import monotonic
from typing import TypeVar

from sostenuto._errors import (
    APIError,
    ConnectionFailed,
    InvalidArgument,
    NotReady,
    QuotaReached,
    ServiceUnavailable,
    SostenutoError,
    TooManyRequests,
)
from sostenuto._settings import LONGEST_S

T = TypeVar("T")

RETRIED_STATUSES = frozenset({408, 409, 429})  # and everything from FIRST_SERVER_ERROR on
FIRST_SERVER_ERROR = 500
FIRST_WAIT_S = 0.5  # doubled at every attempt
MAX_WAIT_S = 8.0
MIN_PATIENT_WAIT_S = 0.1  # where the number of attempts is not limited, if the server asks for 0
MAX_ASKED_WAIT_S = 60.0  # for a longer wait, raise the error instead; WaitForReady waits
PATIENCE_S = 120.0  # of waiting for a lost server: Kubernetes replaces the gateway of a lost node after 80 s
JITTER = 0.25  # so that clients refused together do not retry together
_UNAVAILABLE_STATUSES = frozenset({429, 502, 503})


class LinkedEvent:
    """A `threading.Event` that is also set when its parent is set.

    The wait before a retry is a wait for this event, so that closing a client or a stream interrupts it at once.
    """

    def __init__(self, parent: LinkedEvent | None = None) -> None:
        self._parent = parent
        # Shared with all ancestors, so that a waiter wakes when a parent is set. Its lock is reentrant, because a
        # signal handler or the garbage collector may set an event in a thread that holds it.
        self._changed: threading.Condition = parent._changed if parent else threading.Condition()
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the event or one of its ancestors is set."""
        return self._is_set or (self._parent is not None and self._parent.is_set())

    def set(self) -> None:
        """Set the event permanently and wake all waiters."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the event is set or the timeout expires; return whether it is set."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)


class Backoff:
    """The waits between attempts to open a stream of a lost server: each doubles the time so far, up to MAX_WAIT_S.

    Attributes:
        waited_s: float. Seconds of waits and failed attempts; the caller resets them when the server is back.
    """

    def __init__(self, stopped: LinkedEvent) -> None:
        self.waited_s, self._stopped = 0.0, stopped

    def attempt(self, act: Callable[[], T]) -> T:
        """Call a function; if it raises, its time counts."""
        began_at = monotonic()
        try:
            return act()
        except SostenutoError:
            self.waited_s += monotonic() - began_at
            raise

    def wait(self) -> bool:
        """Wait, unless `stopped`; return False instead if PATIENCE_S would pass."""
        pause_s = min(max(self.waited_s, FIRST_WAIT_S), MAX_WAIT_S)
        self.waited_s += pause_s
        if self.waited_s > PATIENCE_S:
            return False
        self._stopped.wait(pause_s * (1 - JITTER * random.random()))
        return True


class WaitForReady:
    """A policy that waits for an unavailable server instead of raising an error, like gRPC's option of that name.

    Pass it to `Client`. All requests wait together: none gives up while others get responses. Waits do not count
    against `max_retries`, unless a request repeatedly loses its connection while others get responses. Thread-safe;
    several clients of one server may share it.

    Args:
        timeout_s: float. Seconds without a response to any request after which those that have waited as long raise
            NotReady.

    Attributes:
        last_error: SostenutoError or None. The latest error of any request; None after a response.
        num_responses: int. Number of responses so far.

    Raises:
        InvalidArgument: `timeout_s` is not above 0.
    """

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise InvalidArgument(f"timeout_s is {timeout_s!r}: pass seconds above 0")
        self.last_error: SostenutoError | None = None
        self.num_responses = 0
        self._timeout_s = timeout_s
        self._unavailable_since = 0.0
        self._lock = threading.Lock()

    def is_unavailable(self, error: SostenutoError) -> bool:
        """Return whether to wait after an error: a failed connection, or status 429, 502 or 503, but not a quota's.

        Subclasses may add others.
        """
        return (isinstance(error, ConnectionFailed) and error.retryable) or (
            isinstance(error, APIError)
            and error.status in _UNAVAILABLE_STATUSES
            and not isinstance(error, QuotaReached)
        )

    def record_response(self) -> None:
        """Record that a request got a response."""
        with self._lock:
            self.last_error = None
            self.num_responses += 1

    def record_error(self, error: SostenutoError, first_at: float) -> float:
        """Record the error that a request waits for, and return the seconds that it may wait.

        `first_at` is when its first error was, in monotonic seconds: before that, the server may have been available
        without a request.

        Raises:
            NotReady: the server was unavailable for `timeout_s`.
        """
        now = monotonic()
        with self._lock:
            if self.last_error is None:
                self._unavailable_since = now
            self.last_error = error
            left_s = max(self._unavailable_since, first_at) + self._timeout_s - now
        if left_s <= 0:
            raise NotReady(f"the server was unavailable for {self._timeout_s:g} s; the last error: {error}") from error
        return left_s


class Attempts:
    """The attempts of one request: whether and when it is sent again.

    Waits of `wait_for_ready` do not count as retries; if `patient`, nor do those after 429. If `once`, the request must
    not be processed twice.

    Attributes:
        may_be_processed: bool. Whether the server may have processed one of the attempts so far that may be repeated.
    """

    def __init__(self, max_retries: int, wait_for_ready: WaitForReady | None, *, patient: bool, once: bool) -> None:
        self._max_retries, self._wait_for_ready, self._patient = max_retries, wait_for_ready, patient
        self._once, self.may_be_processed = once, False
        self._num_attempts = self._num_failures = 0
        self._first_error_at: float | None = None
        self._num_responses: int | None = None  # to all requests when this one lost its connection

    def succeed(self) -> None:
        """Record that the request got its response."""
        if self._wait_for_ready is not None:
            self._wait_for_ready.record_response()

    def pause_s(self, error: SostenutoError) -> float | None:
        """Return the seconds before the next attempt; None: the error is final.

        Raises:
            NotReady: the server has been unavailable for the timeout of `WaitForReady`.
        """
        if self._once and may_be_processed(error):
            return None
        self.may_be_processed |= error.retryable and may_be_processed(error)
        asked_s = error.retry_after_s if isinstance(error, APIError) else None
        pause_s = wait_s(self._num_attempts, asked_s, random.random())
        self._num_attempts += 1
        if self._wait_for_ready is not None:
            if self._is_unavailable(error, self._wait_for_ready):
                self._first_error_at = self._first_error_at or monotonic()
                left_s = self._wait_for_ready.record_error(error, self._first_error_at)
                return min(max(pause_s, MIN_PATIENT_WAIT_S), left_s)
            if isinstance(error, APIError):
                self._wait_for_ready.record_response()
        if not error.retryable or (asked_s or 0.0) > MAX_ASKED_WAIT_S:
            return None
        if self._patient and isinstance(error, TooManyRequests):
            return max(pause_s, MIN_PATIENT_WAIT_S)
        self._num_failures += 1
        return None if self._num_failures > self._max_retries else pause_s

    def _is_unavailable(self, error: SostenutoError, wait_for_ready: WaitForReady) -> bool:
        """Return whether the server is unavailable, and not this request at fault."""
        if isinstance(error, ConnectionFailed):
            before, self._num_responses = self._num_responses, wait_for_ready.num_responses
            if before not in {None, self._num_responses}:
                return False  # others got responses since its last lost connection: it breaks its own connections
        return wait_for_ready.is_unavailable(error)


def may_be_processed(error: SostenutoError) -> bool:
    """Return whether the server may have processed a request in spite of its error.

    A gateway refuses with 4xx and 503 before it does anything. A 503 without a code is not from a gateway: a proxy may
    have lost its connection to one.
    """
    if isinstance(error, ConnectionFailed):
        return error.was_connected
    if isinstance(error, ServiceUnavailable):
        return error.code is None
    return not isinstance(error, APIError) or (error.status or FIRST_SERVER_ERROR) >= FIRST_SERVER_ERROR


def is_retryable(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the same request may succeed later: `x-should-retry` takes precedence over the status."""
    should_retry = headers.get("x-should-retry", "").strip().lower()
    if should_retry in {"true", "false"}:
        return should_retry == "true"
    return status in RETRIED_STATUSES or status >= FIRST_SERVER_ERROR


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `retry-after-ms` or `Retry-After` (seconds or a date); None if neither is valid.

    They are at most LONGEST_S, as longer waits overflow in the operating system's clock.
    """
    milliseconds, retry_after = _number(headers.get("retry-after-ms", "")), headers.get("retry-after", "")
    seconds = milliseconds / 1000 if milliseconds is not None else _number(retry_after)
    if seconds is None:
        seconds = _seconds_until(retry_after)
    return None if seconds is None else min(seconds, LONGEST_S)


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float:
    """Return the seconds before the next attempt, after one that had `attempt` attempts before it.

    They are `asked_s`, the server's Retry-After, plus up to a quarter; without it, FIRST_WAIT_S · 2^attempt, at most
    MAX_WAIT_S, minus up to a quarter. `chance`, in [0, 1), is the random number for the jitter.
    """
    if asked_s is None:
        # The exponent is limited: a night of waiting for a server has thousands of attempts.
        return float(min(FIRST_WAIT_S * 2 ** min(attempt, 10), MAX_WAIT_S) * (1 - JITTER * chance))
    return asked_s * (1 + JITTER * chance)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except (ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:  # "-0000", which means GMT
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
