"""Requests and tokens per minute, counted in memory and in a real Redis."""

import logging
import math
import socket
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.access import ratelimits
from service.access.ratelimits import RateLimiter, wait_s
from service.errors import ConfigurationError, InvalidRequest, RateLimited
from tests.ports import free_port


@pytest.fixture
def make_limiter(monkeypatch):
    """The constructor of limiters, which wait longer for Redis than it ever takes on a busy machine."""
    monkeypatch.setattr(ratelimits, "REDIS_TIMEOUT_S", 30)
    return RateLimiter


@pytest.fixture(params=["memory", "redis"])
def limiter(request, make_limiter):
    if request.param == "memory":
        # A charge in the next minute would be admitted.
        request.getfixturevalue("clock")
    return make_limiter(request.getfixturevalue("redis_url") if request.param == "redis" else None)


@pytest.fixture
def subject():
    """A subject that no other test charges."""
    return uuid.uuid4().hex


@pytest.fixture
def clock(monkeypatch):
    """The clock of in-memory counting: at the start of a minute, it stands still until set."""
    now = SimpleNamespace(s=1_800_000_000.0)
    monkeypatch.setattr("limits.storage.memory.time", SimpleNamespace(time=lambda: now.s))
    return now


def charge(limiter, subject, *, requests=None, tokens=None, num_tokens=1):
    if requests is not None:
        limiter.charge(subject, "requests", requests, 1)
    else:
        limiter.charge(subject, "tokens", tokens, num_tokens)


def num_charged(limiter, subject, at_most=50, **limits):
    for count in range(at_most):
        try:
            charge(limiter, subject, **limits)
        except RateLimited:
            return count
    return at_most


def test_requests_above_the_limit_per_minute_are_refused(limiter, subject):
    assert num_charged(limiter, subject, requests=5) == 5
    with pytest.raises(RateLimited, match="the limit of 5 requests per minute") as caught:
        charge(limiter, subject, requests=5)
    assert 1 <= caught.value.retry_after_s <= 120


def test_tokens_above_the_limit_per_minute_are_refused(limiter, subject):
    """The limit can be used up to its last token, as refused charges cost nothing."""
    assert num_charged(limiter, subject, tokens=100, num_tokens=30) == 3
    with pytest.raises(RateLimited, match="100 tokens per minute"):
        charge(limiter, subject, tokens=100, num_tokens=11)
    charge(limiter, subject, tokens=100, num_tokens=10)


def test_a_request_above_the_whole_token_limit_is_invalid(limiter, subject):
    with pytest.raises(InvalidRequest, match="alone may use up to 101 tokens, but the limit is 100 per minute"):
        charge(limiter, subject, tokens=100, num_tokens=101)
    with pytest.raises(InvalidRequest, match="alone may use up to 102 tokens, but the limit is 100 per minute"):
        limiter.charge(subject, "tokens", 100, 1, 102)
    charge(limiter, subject, tokens=100, num_tokens=100)


def test_a_refund_returns_the_whole_charge(limiter, subject):
    refund = limiter.charge(subject, "tokens", 100, 60)
    assert num_charged(limiter, subject, tokens=100, num_tokens=60) == 0
    refund()
    assert num_charged(limiter, subject, tokens=100, num_tokens=50) == 2


def test_a_refund_in_a_later_minute_changes_nothing(make_limiter, subject, clock):
    """The charge is in the count of the minute before, and that of a later one would be below zero."""
    limiter = make_limiter(None)
    clock.s += 59.9
    refund = limiter.charge(subject, "tokens", 1000, 1000)
    clock.s += 0.2
    refund()
    clock.s += 59.7
    assert num_charged(limiter, subject, tokens=1000, num_tokens=100) == 9


def test_without_a_limit_nothing_is_counted(limiter, subject):
    assert num_charged(limiter, subject, num_tokens=10**9) == 50
    assert num_charged(limiter, subject, requests=3, num_tokens=10**9) == 3


def test_subjects_are_counted_separately(limiter, subject):
    assert num_charged(limiter, subject, requests=2) == 2
    assert num_charged(limiter, subject + "x", requests=2) == 2


@pytest.fixture
def restless():
    """Make the interpreter switch threads as often as it can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
@pytest.mark.parametrize("attempt", range(20))
def test_concurrent_charges_never_exceed_the_limit(limiter, subject, attempt):  # noqa: ARG001 - repeats the test
    barrier = threading.Barrier(8)

    def work(_):
        barrier.wait()
        return num_charged(limiter, subject, tokens=200, num_tokens=9)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(work, range(8))) == 22
    assert num_charged(limiter, subject, tokens=200) == 2


def test_two_limiters_on_one_redis_share_their_counts(make_limiter, redis_url, subject):
    first, second = make_limiter(redis_url), make_limiter(redis_url)
    assert num_charged(first, subject, at_most=3, requests=5) == 3
    assert num_charged(second, subject, requests=5) == 2


def test_more_threads_than_pooled_connections_still_use_redis(make_limiter, redis_url, subject, caplog):
    """Many requests that wait for a slow Redis are no reason to fall back to in-memory counting."""
    limiter = make_limiter(redis_url)
    with Redis.from_url(redis_url) as redis:
        redis.client_pause(500)
    with ThreadPoolExecutor(150) as pool:
        list(pool.map(lambda _: charge(limiter, subject, requests=1000), range(150)))
    assert not caplog.records


def test_while_redis_is_down_each_process_counts_in_memory(make_limiter, own_redis, subject, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ratelimits, "REDIS_RETRY_S", 0.0)
    limiter = make_limiter(own_redis.url)
    charge(limiter, subject, requests=5)
    own_redis.kill()
    assert num_charged(limiter, subject, requests=5) == 5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    own_redis.start()
    charge(limiter, subject, requests=5)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert num_charged(make_limiter(own_redis.url), subject, requests=5) == 4


def test_an_unresponsive_redis_is_retried_once_per_interval(make_limiter, monkeypatch, subject):
    monkeypatch.setattr(ratelimits, "REDIS_TIMEOUT_S", 0.05)
    monkeypatch.setattr(ratelimits, "REDIS_RETRY_S", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limiter = make_limiter(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        for _ in range(20):
            charge(limiter, subject, requests=100)
        silent.settimeout(0.0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


@pytest.mark.parametrize("reason", ["ConnectionError", "AuthenticationError"])
def test_an_unavailable_redis_is_a_warning_without_its_password(make_limiter, redis_url, subject, caplog, reason):
    url = f"redis://127.0.0.1:{free_port()}/0" if reason == "ConnectionError" else redis_url
    limiter = make_limiter(url.replace("//", "//me:hunter2@"))
    assert num_charged(limiter, subject, requests=3) == 3
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert reason in record.getMessage()
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("url", ["", "a:6379", "http://hunter2@a", "redis://me:hunter2/@a", "redis://a?hunter2=1"])
def test_an_invalid_redis_url_names_the_setting_not_its_value(url):
    """The URL may hold a password, so neither the message nor its traceback has any part of it."""
    with pytest.raises(ConfigurationError, match="SOSTENUTO_REDIS_URL") as caught:
        RateLimiter(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(("seconds", "cost"), [(0, 1), (10, 1), (10, 50), (59.5, 100), (30, 37)])
def test_retry_after_is_the_earliest_second_that_passes(make_limiter, clock, subject, seconds, cost):
    limiter = make_limiter()
    charge(limiter, subject, tokens=100, num_tokens=70)
    clock.s += 60 + seconds
    assert num_charged(limiter, subject, 101, tokens=100) > 0
    with pytest.raises(RateLimited) as caught:
        charge(limiter, subject, tokens=100, num_tokens=cost)
    start = clock.s
    for wait in range(1, caught.value.retry_after_s):
        clock.s = start + wait
        with pytest.raises(RateLimited):
            charge(limiter, subject, tokens=100, num_tokens=cost)
    clock.s = start + caught.value.retry_after_s
    charge(limiter, subject, tokens=100, num_tokens=cost)


@given(st.data())
def test_wait_s_is_the_earliest_second_of_the_sliding_window(data):
    limit = data.draw(st.integers(1, 1000))
    cost = data.draw(st.integers(1, limit))
    previous, current = data.draw(st.integers(0, limit)), data.draw(st.integers(0, limit))
    left = data.draw(st.integers(1, 60))

    def fits(second):
        if second < left:
            weight = math.floor(previous * (left - second) / 60) + current
        else:
            weight = math.floor(current * max(0, 60 + left - second) / 60)
        return weight + cost <= limit

    told = wait_s(previous, left, current, 60 + left, limit=limit, cost=cost)
    assert told == next(second for second in range(1, 122) if fits(second))
