"""The single-flight cache: one computation per key, failures, limits, eviction."""

import gc
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import pytest

from service.caches import LruCache, SingleFlightCache
from tests.waiting import until


@dataclass(frozen=True, eq=False)
class Value:
    num_bytes: int = 1


class Work:
    """A computation that lasts until it is released."""

    def __init__(self):
        self.begun, self.released, self.num_begun = threading.Event(), threading.Event(), 0

    def __call__(self):
        self.num_begun += 1
        self.begun.set()
        assert self.released.wait(30)
        return Value()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def until_waiting(cache, key, count):
    until(lambda: key in cache._computing and len(cache._computing[key]._condition._waiters) == count - 1)


def test_concurrent_callers_share_one_computation(pool):
    cache, work = SingleFlightCache(10), Work()
    results = [pool.submit(cache.get, "a", work) for _ in range(8)]
    until_waiting(cache, "a", 8)
    work.released.set()
    assert len({id(result.result(30)) for result in results}) == 1
    assert cache.get("a", work) is results[0].result()
    assert work.num_begun == 1


def test_a_computation_does_not_block_other_keys(pool):
    cache, work = SingleFlightCache(10), Work()
    slow = pool.submit(cache.get, "a", work)
    assert work.begun.wait(30)
    other = cache.get("b", Value)
    assert cache.get("b", work) is other
    work.released.set()
    assert slow.result(30) is not other


def test_a_failure_is_raised_to_every_waiting_caller_and_not_cached(pool):
    cache, begun = SingleFlightCache(10), threading.Event()

    def fail():
        begun.wait(30)
        raise ValueError("no such thing")

    results = [pool.submit(cache.get, "a", fail) for _ in range(4)]
    until_waiting(cache, "a", 4)
    begun.set()
    errors = [result.exception(30) for result in results]
    assert {str(error) for error in errors} == {"no such thing"}
    assert len(set(map(id, errors))) == 4
    assert all("in fail" in "".join(traceback.format_tb(error.__traceback__)) for error in errors)
    assert isinstance(cache.get("a", Value), Value)


def test_an_error_leaves_no_reference_cycle():
    cache = SingleFlightCache(10)

    def fail():
        bodies.append(weakref.ref(body := Value()))
        raise ValueError(body.num_bytes)

    bodies = []
    gc.disable()
    try:
        with suppress(ValueError):
            cache.get("a", fail)
        assert bodies[0]() is None
    finally:
        gc.enable()


def test_the_cache_is_limited_by_bytes():
    cache, made = SingleFlightCache(10), []

    def get(key, num_bytes):
        def compute():
            made.append(key)
            return Value(num_bytes)

        return cache.get(key, compute)

    get("a", 4), get("b", 4), get("a", 4), get("c", 4)
    assert made == ["a", "b", "c"]
    get("a", 4), get("b", 4)
    assert made == ["a", "b", "c", "b"]
    get("d", 100), get("d", 100), get("a", 4)
    assert made == ["a", "b", "c", "b", "d", "a"]


def test_a_replaced_value_takes_no_room():
    cache = LruCache(10)
    for key in ("a", "b", "b", "b"):
        cache.put(key, Value(5))
    assert cache.get("a") is not None
