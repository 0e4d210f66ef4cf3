"""Whether a request is sent again, and when."""

import threading

import pytest
from requests.structures import CaseInsensitiveDict

from service.batch.errors import Stopped
from service.batch.retries import Patience, Verdict, asked_wait_s, describe, judge, wait_s

OWN_FAULT = {"error": {"message": "m", "param": "state", "code": "state_foreign"}}


@pytest.mark.parametrize(
    ("status", "retry", "body", "verdict"),
    [
        (200, None, {}, Verdict.FINAL),
        (200, None, None, Verdict.AGAIN),
        (302, None, None, Verdict.AGAIN),
        (400, None, {}, Verdict.FINAL),
        (413, None, None, Verdict.FINAL),
        (410, "true", {}, Verdict.AGAIN),
        (401, None, {}, Verdict.STOP),
        (403, None, {}, Verdict.STOP),
        (403, None, OWN_FAULT, Verdict.FINAL),
        (408, None, {}, Verdict.AGAIN),
        (499, None, {}, Verdict.AGAIN),
        (500, None, {}, Verdict.AGAIN),
        (500, "false", {}, Verdict.FINAL),
        (504, None, {}, Verdict.AGAIN),
        (504, "false", {}, Verdict.FINAL),
        (429, None, {}, Verdict.WAIT),
        (502, None, None, Verdict.WAIT),
        (503, None, {}, Verdict.WAIT),
        (503, "false", {}, Verdict.WAIT),
    ],
)
def test_the_status_and_x_should_retry_decide(status, retry, body, verdict):
    """One table of all of them."""
    headers = CaseInsensitiveDict({"X-Should-Retry": retry} if retry else {})
    assert judge(status, headers, body) is verdict


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 -0000"}, 0),
    ],
)
def test_what_the_server_asks_for_is_read(headers, seconds):
    """In milliseconds, seconds, or as a date."""
    assert asked_wait_s(headers) == seconds


@pytest.mark.parametrize(
    ("attempt", "asked_s", "chance", "seconds"),
    [(0, None, 0, 0.5), (1, None, 0, 1), (9, None, 0, 8), (9999, None, 1, 6), (5, 2, 0, 2), (0, 2, 1, 2.5)],
)
def test_waits_double_up_to_a_bound_unless_the_server_asks(attempt, asked_s, chance, seconds):
    """The jitter makes ours shorter and the server's longer."""
    assert wait_s(attempt, asked_s, chance) == seconds


def test_patience_ends_when_nothing_is_answered_for_too_long():
    """The message has the bound and the last trouble; an answer in between begins the time anew."""
    patience = Patience(0.05)

    def wait():
        for _ in range(1000):
            patience.wait(0.01, "away")

    with pytest.raises(Stopped, match=r"given up after 0\.05 s without any answer; the last: away"):
        wait()
    patience.answered()
    patience.wait(0.01, "away")
    assert patience.trouble == "away"


def test_whoever_waits_is_woken_by_the_end_of_the_run():
    """It waits no longer for anything."""
    patience, woken = Patience(600), []

    def wait():
        with pytest.raises(Stopped, match="over"):
            patience.wait(600, "away")
        woken.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    patience.end()
    thread.join(10)
    assert woken


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, None, "200 without JSON"),
        (502, None, "502"),
        (503, {"error": {"message": "m", "code": "c"}}, "503 c: m"),
        (500, {"error": "text"}, "500"),
    ],
)
def test_trouble_is_told_in_a_few_words(status, body, words):
    """Status, code and message, as far as there are any."""
    assert describe(status, body) == words
