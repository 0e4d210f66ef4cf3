"""Whether a request is sent again, when, and for how long at all. It sends nothing.

`urllib3.Retry` does not fit: it counts attempts of one request, and here all of them wait together for a gateway that
is away, as long as none is answered; the end of the run cannot wake it; and it does not know `x-should-retry`.
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

MAX_ATTEMPTS = 4  # of a request that is at fault itself, as far as one can tell
FIRST_WAIT_S = 0.5  # doubled at every attempt
MAX_WAIT_S = 8.0
JITTER = 0.25  # so that requests refused together don't come back together


class Verdict(Enum):
    """What an answer means for its line."""

    FINAL = "it is the line's answer"
    AGAIN = "the request, or its moment, was bad: a few attempts more"
    WAIT = "the gateway is busy or away: as long as it takes"
    STOP = "no request would be let in"


def judge(status: int, headers: Mapping[str, str], body: Any) -> Verdict:
    """Judge an answer by HTTP.

    Args:
        status: HTTP's.
        headers: Looked up regardless of case.
        body: What its JSON says; None if it is none.
    """
    if status in {429, 502, 503}:
        # Whatever x-should-retry says: a text begins anew here, and comes out the same.
        return Verdict.WAIT
    # A state token of somebody else is one line's own fault; it comes with the field's name.
    if status == 401 or (status == 403 and not _names_field(body)):
        return Verdict.STOP
    said = headers.get("x-should-retry", "").strip().lower()
    if said in {"true", "false"}:
        return Verdict.AGAIN if said == "true" else Verdict.FINAL
    if status in {408, 499} or status >= 500:
        return Verdict.AGAIN
    if body is None and status < 400:
        return Verdict.AGAIN
    return Verdict.FINAL


def describe(status: int, body: Any) -> str:
    """Say in a few words what came."""
    if status < FIRST_REFUSAL:
        return f"{status} without JSON"
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    code = code_of(status, body)
    words = f"{status}" if code == f"http_{status}" else f"{status} {code}"
    return f"{words}: {message}" if isinstance(message, str) else words


def asked_wait_s(headers: Mapping[str, str]) -> float | None:
    """Read the seconds to wait: `retry-after-ms`, or `Retry-After` (seconds or a date); None if neither is sound."""
    milliseconds = _number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    retry_after = headers.get("retry-after", "")
    seconds = _number(retry_after)
    return seconds if seconds is not None else _seconds_until(retry_after)


def wait_s(attempt: int, asked_s: float | None, chance: float) -> float:
    """Compute the seconds before the next attempt.

    Args:
        attempt: Attempts before the one that has just failed.
        asked_s: What the server asks for.
        chance: In [0, 1), for the jitter: a quarter more than asked at most, or a quarter less than our own.
    """
    if asked_s is not None:
        return asked_s * (1 + JITTER * chance)
    # Bounded before it is a power: a night of attempts has thousands.
    return float(min(FIRST_WAIT_S * 2 ** min(attempt, 10), MAX_WAIT_S) * (1 - JITTER * chance))


class Patience:
    """How long the whole run waits without any answer; shared by all threads.

    Attributes:
        trouble: What is waited for, or None.
        num_answers: Answers so far.
    """

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._failing_since: float | None = None
        self._ended = threading.Event()
        self.trouble: str | None = None
        self.num_answers = 0

    def answered(self) -> None:
        """Note that a line has got its answer."""
        self._failing_since = self.trouble = None
        self.num_answers += 1

    def end(self) -> None:
        """Wake whoever waits: the run is over."""
        self._ended.set()

    def wait(self, seconds: float, trouble: str) -> None:
        """Wait before another attempt.

        Raises:
            Stopped: nothing was answered for too long, or the run is over.
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
    """Compute the seconds before the next attempt, with a jitter of chance."""
    return wait_s(attempt, asked_s, random.random())


def _names_field(body: Any) -> bool:
    error = body.get("error") if isinstance(body, dict) else None
    return isinstance(error, dict) and error.get("param") is not None


def _number(text: str) -> float | None:
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
    if moment.tzinfo is None:  # "-0000", which is GMT without saying so
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
