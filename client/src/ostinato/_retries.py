"""Whether to send a request again, and when. It knows statuses, headers and seconds; it neither sends nor waits.

A generation changes nothing on the server, so that sending it again is always safe.
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
MAX_ASKED_WAIT_S = 60.0  # who is asked to wait longer than this would rather be told
JITTER = 0.25  # so that clients refused together don't come back together


def is_retryable(status: int, headers: Mapping[str, str]) -> bool:
    """Say whether the same request may succeed later: `x-should-retry` decides, and the status where it is silent."""
    said = headers.get("x-should-retry", "").strip().lower()
    if said in {"true", "false"}:
        return said == "true"
    return status in RETRIED_STATUSES or status >= FIRST_SERVER_ERROR


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Read the seconds to wait: `retry-after-ms`, or `Retry-After` (seconds or a date); None if neither is sound."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = headers.get("retry-after", "")
    seconds = _number(retry_after)
    return seconds if seconds is not None else _seconds_until(retry_after)


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float | None:
    """Compute the wait before the next attempt.

    Args:
        attempt: int. How many attempts were made before the one that has just failed.
        asked_s: float or None. What the server asks for, in seconds.
        chance: float in [0, 1). A random number, for the jitter.

    Returns:
        Seconds: `asked_s` and up to a quarter more; without it, FIRST_WAIT_S · 2^attempt, at most MAX_WAIT_S, and up to
        a quarter less. None if the server asks for more than MAX_ASKED_WAIT_S: don't try again.
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
    except (TypeError, ValueError, IndexError):  # Python 3.9 raises TypeError for what is no date
        return None
    if moment.tzinfo is None:  # "-0000", which is GMT without saying so
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
