"""The retry policy: whether a request is retried, when, and when the run gives up. Does not send anything.

`urllib3.Retry` does not fit: it counts attempts of one request, whereas here all requests wait together for an
unavailable gateway as long as none gets a response; the end of the run cannot wake it; and it does not support
`x-should-retry`.
"""

import math
import random
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

from service.batch.errors import Stopped
from service.batch.output_record import FIRST_REFUSAL, code_of

MAX_ATTEMPTS = 4  # of a request whose failure appears to be its own
FIRST_WAIT_S = 0.5  # doubled at every attempt
MAX_WAIT_S = 8.0
JITTER = 0.25  # so that requests refused together are not retried together


class Verdict(Enum):
    """The decision on the response to a line."""

    FINAL = "it is the line's answer"
    AGAIN = "the request, or its moment, was bad: a few attempts more"
    WAIT = "the gateway is busy or away: as long as it takes"
    STOP = "no request would be let in"


def judge(status: int, headers: Mapping[str, str], body: Any) -> Verdict:
    """Return whether a response is final, retried or ends the run.

    Args:
        status: HTTP status.
        headers: Case-insensitive.
        body: The parsed JSON; None if it is not JSON.
    """
    if status in {429, 502, 503}:
        # Regardless of x-should-retry: here a retry starts the sequence again, with the same output.
        return Verdict.WAIT
    # A resume token of another tenant is an error of one line only; its 403 names the field.
    if status == 401 or (status == 403 and not _names_field(body)):
        return Verdict.STOP
    should_retry = headers.get("x-should-retry", "").strip().lower()
    if should_retry in {"true", "false"}:
        return Verdict.AGAIN if should_retry == "true" else Verdict.FINAL
    if status in {408, 499} or status >= 500:
        return Verdict.AGAIN
    if body is None and status < 400:
        return Verdict.AGAIN
    return Verdict.FINAL


def describe(status: int, body: Any) -> str:
    """Return a short description of a response: status, code and message."""
    if status < FIRST_REFUSAL:
        return f"{status} without JSON"
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    code = code_of(status, body)
    summary = f"{status}" if code == f"http_{status}" else f"{status} {code}"
    return f"{summary}: {message}" if isinstance(message, str) else summary


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of `retry-after-ms`, else of `Retry-After` (seconds or a date), else None."""
    milliseconds = _parse_number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = headers.get("retry-after", "")
    seconds = _parse_number(retry_after)
    return seconds if seconds is not None else _seconds_until(retry_after)


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float:
    """Compute the seconds before the next attempt.

    Args:
        attempt: Number of attempts before the one that has just failed.
        asked_s: Seconds that the server asks for, or None.
        chance: Random number in [0, 1) for the jitter: up to a quarter more than asked, or a quarter less than our own.
    """
    if asked_s is not None:
        return asked_s * (1 + JITTER * chance)
    # The exponent is limited: a night of retries has thousands of attempts.
    return float(min(FIRST_WAIT_S * 2 ** min(attempt, 10), MAX_WAIT_S) * (1 - JITTER * chance))


class Patience:
    """The time-out of the whole run without any response; shared by all threads.

    Attributes:
        trouble: Description of the last failure while the run waits, or None.
        num_answers: Responses so far.
    """

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._failing_since: float | None = None
        self._ended = threading.Event()
        self.trouble: str | None = None
        self.num_answers = 0

    def answered(self) -> None:
        """Record that a line got its response."""
        self._failing_since = self.trouble = None
        self.num_answers += 1

    def end(self) -> None:
        """End the run and wake all waiting threads."""
        self._ended.set()

    def wait(self, seconds: float, trouble: str) -> None:
        """Wait before the next attempt.

        Raises:
            Stopped: no response for too long, or the run is over.
        """
        now = time.monotonic()
        since = self._failing_since = self._failing_since or now
        self.trouble = trouble
        left_s = since + self._give_up_after_s - now
        if left_s <= 0:
            raise Stopped(f"given up after {self._give_up_after_s:g} s without any answer; the last: {trouble}")
        if self._ended.wait(min(seconds, left_s)):
            raise Stopped("the run is over")


def next_wait_s(attempt: int, asked_s: float | None) -> float:
    """Compute the seconds before the next attempt, with random jitter."""
    return wait_s(attempt, asked_s, random.random())


def _names_field(body: Any) -> bool:
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and error.get("param") is not None


def _parse_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _seconds_until(http_date: str) -> float | None:
    try:
        moment = parsedate_to_datetime(http_date)
    except ValueError:
        return None
    if moment.tzinfo is None:  # "-0000": UTC without a stated time zone
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
