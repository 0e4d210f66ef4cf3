"""The retry policy, computed without requests: what is retryable, and after which wait."""

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from sostenuto._retries import MAX_WAIT_S, asked_wait_s, is_retryable, wait_s


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 599])
def test_transient_statuses_are_retryable(status):
    """Timeouts, conflicts, full queues and server errors may be over at the next attempt."""
    assert is_retryable(status, {}) == (status in {408, 409, 429} or status >= 500)


def test_x_should_retry_overrides_the_status():
    assert is_retryable(400, {"x-should-retry": "true"})
    assert not is_retryable(503, {"x-should-retry": "False"})
    assert is_retryable(503, {"x-should-retry": "maybe"})


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "1"}, 1.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        *(
            ({"retry-after": text, "retry-after-ms": text}, None)
            for text in ("", "soon", "-1", "nan", "inf", "Thu, 99 Foo 1970")
        ),
    ],
)
def test_retry_after_headers_are_read_in_seconds_and_ignored_if_invalid(headers, seconds):
    assert asked_wait_s(headers) == seconds


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_retry_after_may_be_a_date(zone):
    text = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True).replace("GMT", zone)
    assert asked_wait_s({"retry-after": text}) == pytest.approx(30, abs=2)


def test_waits_double_up_to_a_maximum():
    assert [wait_s(attempt, None, 0.0) for attempt in range(6)] == [0.5, 1.0, 2.0, 4.0, MAX_WAIT_S, MAX_WAIT_S]
    assert wait_s(9999, None, 1.0) == 6.0


def test_jitter_shortens_the_clients_waits_and_lengthens_retry_after():
    """Clients are spread out, and none retries before the time that the server named."""
    assert wait_s(1, None, 1.0) == 0.75
    assert wait_s(1, 4.0, 0.0) == 4.0
    assert wait_s(1, 4.0, 1.0) == 5.0
