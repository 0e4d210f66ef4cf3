"""LRU caches with a memory limit; one shares a computation among concurrent requests for a key."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value with a memory size."""

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)


class LruCache(Generic[K, V]):
    """The most recently used values, up to a limit of their sizes; not thread-safe.

    The most recently used one is kept even if it alone is larger than the limit.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a value and mark it as used; None if it is not in the cache."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Add or replace a value, and evict those that were used the longest time ago."""
        if (replaced := self._values.pop(key, None)) is not None:
            self._num_bytes -= replaced.num_bytes
        self._values[key] = value
        self._num_bytes += value.num_bytes
        while len(self._values) > 1 and self._num_bytes > self._max_bytes:
            _, evicted = self._values.popitem(last=False)
            self._num_bytes -= evicted.num_bytes


class SingleFlightCache(Generic[K, V]):
    """A thread-safe LRU cache whose values are computed once for all concurrent requests."""

    def __init__(self, max_bytes: int) -> None:
        self._cache: LruCache[K, V] = LruCache(max_bytes)
        self._computing: dict[K, Future[V]] = {}
        self._lock = threading.Lock()  # never held while a value is computed

    def get(self, key: K, compute: Callable[[], V]) -> V:
        """Return a value from the cache, or compute it on the thread of the first caller while the others wait.

        What `compute` raises is raised to every waiting caller; the next caller computes again.
        """
        with self._lock:
            kept = self._cache.get(key)
            if kept is not None:
                return kept
            running = self._computing.get(key)
            if running is None:
                self._computing[key] = Future()
        if running is None:
            return self._compute(key, compute)
        error = running.exception()
        if error is not None:
            # Each caller raises its own, with its own traceback.
            raise copy.copy(error).with_traceback(error.__traceback__)
        return running.result()

    def _compute(self, key: K, compute: Callable[[], V]) -> V:
        # No frame refers to the future: an error's traceback holds the frames, and the future holds the error.
        try:
            value = compute()
        except BaseException as error:
            with self._lock:
                self._computing.pop(key).set_exception(error)
            raise
        with self._lock:
            self._cache.put(key, value)
            self._computing.pop(key).set_result(value)
        return value
