"""The cache that computes each value once: who computes, who waits, what is kept, and when nobody wants it any more."""

import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from service.backends.single_flight import SingleFlightCache
from tests.waiting import until


@dataclass(frozen=True, eq=False)
class Value:
    """Something of a size."""

    num_bytes: int = 1


class Work:
    """A computation that stops at its first checkpoint until it is released."""

    def __init__(self):
        self.begun, self.released, self.num_begun, self.num_finished = threading.Event(), threading.Event(), 0, 0

    def __call__(self, checkpoint):
        self.num_begun += 1
        self.begun.set()
        assert self.released.wait(30)
        checkpoint()
        self.num_finished += 1
        return Value()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until_waiting(cache, key, count):
    until(lambda: len(cache._waiting.get(key, ())) >= count)


def test_callers_at_once_wait_for_one_computation(pool):
    """However many ask, one computes, and all get the same value; later ones get it from the cache."""
    cache, work = SingleFlightCache(10), Work()
    results = [pool.submit(cache.get, "a", work, Future()) for _ in range(8)]
    until_waiting(cache, "a", 8)
    work.released.set()
    assert len({id(result.result(30)) for result in results}) == 1
    assert cache.get("a", work, Future()) is results[0].result()
    assert work.num_begun == 1


def test_one_computation_does_not_hold_up_another(pool):
    """While one value is computed, others are computed and read."""
    cache, work = SingleFlightCache(10), Work()
    slow = pool.submit(cache.get, "a", work, Future())
    assert work.begun.wait(30)
    other = cache.get("b", lambda _: Value(), Future())
    assert cache.get("b", work, Future()) is other
    work.released.set()
    assert slow.result(30) is not other


def test_a_caller_that_cancels_does_not_wait(pool):
    """The others do, and get their value, even if the one that left had been the first."""
    cache, work = SingleFlightCache(10), Work()
    requests = [Future(), Future(), Future()]
    results = []
    for count, request in enumerate(requests, 1):
        results.append(pool.submit(cache.get, "a", work, request))
        until_waiting(cache, "a", count)
    requests[1].cancel()
    with pytest.raises(CancelledError):
        results[1].result(30)
    requests[0].cancel()
    work.released.set()
    with pytest.raises(CancelledError):
        results[0].result(30)
    assert results[2].result(30) is cache.get("a", work, Future())
    assert (work.num_begun, work.num_finished) == (1, 1)


def test_what_nobody_waits_for_is_abandoned_at_the_next_checkpoint(pool):
    """The next caller starts a new one."""
    cache, work = SingleFlightCache(10), Work()
    requests = [Future() for _ in range(3)]
    results = [pool.submit(cache.get, "a", work, request) for request in requests]
    until_waiting(cache, "a", 3)
    for request in requests:
        request.cancel()
    work.released.set()
    for result in results:
        with pytest.raises(CancelledError):
            result.result(30)
    assert work.num_finished == 0
    assert isinstance(cache.get("a", work, Future()), Value)
    assert (work.num_begun, work.num_finished) == (2, 1)


def test_what_was_cancelled_before_is_not_begun():
    """A client may have left before its request has got this far."""
    cache, work, request = SingleFlightCache(10), Work(), Future()
    request.cancel()
    with pytest.raises(CancelledError):
        cache.get("a", work, request)
    assert work.num_begun == 0


def test_a_failure_is_everybodys_who_waited_and_nobodys_later(pool):
    """Each raises its own exception; it is not kept."""
    cache, begun = SingleFlightCache(10), threading.Event()

    def fail(_checkpoint):
        begun.wait(30)
        raise ValueError("no such thing")

    results = [pool.submit(cache.get, "a", fail, Future()) for _ in range(4)]
    until_waiting(cache, "a", 4)
    begun.set()
    errors = [result.exception(30) for result in results]
    assert {str(error) for error in errors} == {"no such thing"}
    assert len(set(map(id, errors))) == 4
    assert isinstance(cache.get("a", lambda _: Value(), Future()), Value)


def test_memory_is_bounded_by_bytes():
    """The values used last stay; one that is larger than the limit is kept alone."""
    cache, made = SingleFlightCache(10), []

    def get(key, num_bytes):
        def compute(_checkpoint):
            made.append(key)
            return Value(num_bytes)

        return cache.get(key, compute, Future())

    get("a", 4), get("b", 4), get("a", 4), get("c", 4)
    assert made == ["a", "b", "c"]
    get("a", 4), get("b", 4)
    assert made == ["a", "b", "c", "b"]
    get("d", 100), get("d", 100), get("a", 4)
    assert made == ["a", "b", "c", "b", "d", "a"]
