"""Retry policy. Knows statuses, headers and delays. Neither sends nor waits.

A generation has no effects on the server, so a retry is always safe.
"""

from __future__ import annotations

import math
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RETRIED_STATUSES = frozenset({408, 409, 429})  # and everything from FIRST_SERVER_ERROR on
FIRST_SERVER_ERROR = 500
FIRST_WAIT_S = 0.5  # doubled at every attempt
MAX_WAIT_S = 8.0
MAX_ASKED_WAIT_S = 60.0  # for a longer wait, raise the error instead
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


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float | None:
    """Return the wait before the next attempt.

    Args:
        attempt: int. Number of attempts before the one that has just failed.
        asked_s: float or None. Retry-After of the server, in seconds.
        chance: float in [0, 1). Random number for the jitter.

    Returns:
        Seconds: `asked_s` plus up to a quarter; without it, FIRST_WAIT_S · 2^attempt, at most MAX_WAIT_S, minus up to a
        quarter. None if `asked_s` exceeds MAX_ASKED_WAIT_S: do not retry.
    """
    if asked_s is None:
        return float(min(FIRST_WAIT_S * 2**attempt, MAX_WAIT_S) * (1 - JITTER * chance))
    if asked_s > MAX_ASKED_WAIT_S:
        return None
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
    except (TypeError, ValueError, IndexError):  # Python 3.9 raises TypeError for an invalid date
        return None
    if moment.tzinfo is None:  # "-0000", which means GMT
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
