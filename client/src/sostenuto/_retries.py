"""Retry policy. Knows statuses, headers, errors and delays. Neither sends nor waits.

A generation has no effects on the server, so a retry is always safe.
"""

from __future__ import annotations

import math
import random
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from sostenuto._errors import APIError, ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sostenuto._errors import SostenutoError
    from sostenuto._readiness import WaitForReady

RETRIED_STATUSES = frozenset({408, 409, 429})  # and everything from FIRST_SERVER_ERROR on
FIRST_SERVER_ERROR = 500
FIRST_WAIT_S = 0.5  # doubled at every attempt
MAX_WAIT_S = 8.0
MAX_ASKED_WAIT_S = 60.0  # for a longer wait, raise the error instead; WaitForReady waits
JITTER = 0.25  # so that clients refused together do not retry together


def is_retryable(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether the same request may succeed later: `x-should-retry` takes precedence over the status."""
    should_retry = headers.get("x-should-retry", "").strip().lower()
    if should_retry in {"true", "false"}:
        return should_retry == "true"
    return status in RETRIED_STATUSES or status >= FIRST_SERVER_ERROR


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in `retry-after-ms` or `Retry-After` (seconds or a date); None if neither is valid."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = headers.get("retry-after", "")
    seconds = _number(retry_after)
    return seconds if seconds is not None else _seconds_until(retry_after)


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float:
    """Return the wait before the next attempt.

    Args:
        attempt: int. Number of attempts before the one that has just failed.
        asked_s: float or None. Retry-After of the server, in seconds.
        chance: float in [0, 1). Random number for the jitter.

    Returns:
        Seconds: `asked_s` plus up to a quarter; without it, FIRST_WAIT_S · 2^attempt, at most MAX_WAIT_S, minus up to a
        quarter.
    """
    if asked_s is None:
        # The exponent is limited: a night of waiting for a server has thousands of attempts.
        return float(min(FIRST_WAIT_S * 2 ** min(attempt, 10), MAX_WAIT_S) * (1 - JITTER * chance))
    return asked_s * (1 + JITTER * chance)


class Attempts:
    """The attempts of one request: whether and when it is sent again."""

    def __init__(self, max_retries: int, wait_for_ready: WaitForReady | None) -> None:
        self._max_retries, self._wait_for_ready = max_retries, wait_for_ready
        self._num_attempts = self._num_failures = 0
        self._num_responses: int | None = None  # to all requests, when this one lost its connection

    def succeed(self) -> None:
        """Record that the request got its response."""
        if self._wait_for_ready is not None:
            self._wait_for_ready.record_response()

    def pause_s(self, error: SostenutoError) -> float | None:
        """Return the seconds before the next attempt; None: the error is final.

        Raises:
            NotReady: the server has been unavailable for the timeout of `WaitForReady`.
        """
        asked_s = error.retry_after_s if isinstance(error, APIError) else None
        pause_s = wait_s(self._num_attempts, asked_s, random.random())
        self._num_attempts += 1
        if self._wait_for_ready is not None:
            if self._is_unavailable(error, self._wait_for_ready):
                return min(pause_s, self._wait_for_ready.record_error(error))
            if isinstance(error, APIError):
                self._wait_for_ready.record_response()
        self._num_failures += 1
        is_final = not error.retryable or self._num_failures > self._max_retries
        return None if is_final or (asked_s or 0.0) > MAX_ASKED_WAIT_S else pause_s

    def _is_unavailable(self, error: SostenutoError, wait_for_ready: WaitForReady) -> bool:
        """Return whether the server is unavailable, and not this request at fault."""
        if isinstance(error, ConnectionFailed):
            before, self._num_responses = self._num_responses, wait_for_ready.num_responses
            if before not in {None, self._num_responses}:
                return False  # others got responses since its last lost connection: it breaks its connections itself
        return wait_for_ready.is_unavailable(error)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except (TypeError, ValueError, IndexError):  # Python 3.9 raises TypeError for an invalid date
        return None
    if moment.tzinfo is None:  # "-0000", which means GMT
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
