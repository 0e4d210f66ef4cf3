"""LRU caches with a memory limit; in one of them concurrent requests for a key share one computation."""

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
        """Its memory, in bytes."""


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


class Abandoned(Exception):
    """All requests for a value have been cancelled."""


class SingleFlightCache(Generic[K, V]):
    """A thread-safe LRU cache whose values are computed once for all concurrent requests."""

    def __init__(self, max_bytes: int) -> None:
        self._cache: LruCache[K, V] = LruCache(max_bytes)
        self._waiting: dict[K, list[Future[V]]] = {}
        self._lock = threading.Lock()  # never held while a value is computed

    def get(self, key: K, compute: Callable[[Callable[[], None]], V], request: "Future[V] | None" = None) -> V:
        """Return a value from the cache, or compute it on the thread of the first caller while the others wait.

        `compute` gets a function to call between its steps, which raises `Abandoned` once all requests are cancelled.
        The caller's own `request` is pending; `request.cancel()`, from another thread, ends its wait. Without one it
        can't be cancelled.

        Raises:
            CancelledError: the request was cancelled.
            Exception: what `compute` raised, in every waiting caller; the next caller computes again.
        """
        request = request or Future()
        with self._lock:
            kept = self._cache.get(key)
            if kept is not None:
                return kept
            waiting = self._waiting.setdefault(key, [])
            waiting.append(request)
            is_first = len(waiting) == 1
        if is_first:
            self._compute(key, compute)
        try:
            return request.result()
        finally:
            # An error's traceback holds this frame, and the future holds the error.
            del request, waiting

    def _compute(self, key: K, compute: Callable[[Callable[[], None]], V]) -> None:
        try:
            self._abandon_if_cancelled(key)
            value = compute(lambda: self._abandon_if_cancelled(key))
        except Abandoned:
            return
        except BaseException as error:
            self._fail(key, error)
            return
        with self._lock:
            self._cache.put(key, value)
        for request in self._take_waiting(key):
            request.set_result(value)

    def _fail(self, key: K, error: BaseException) -> None:
        """Pass an error to all callers; in a frame that its traceback does not hold."""
        for request in self._take_waiting(key):
            request.set_exception(_copied(error))

    def _abandon_if_cancelled(self, key: K) -> None:
        with self._lock:
            if all(request.cancelled() for request in self._waiting[key]):
                # Under the same lock as the check: the next caller starts a new computation.
                del self._waiting[key]
                raise Abandoned

    def _take_waiting(self, key: K) -> "list[Future[V]]":
        """Remove the requests for a key; return those that are not cancelled."""
        with self._lock:
            waiting = self._waiting.pop(key)
        return [request for request in waiting if request.set_running_or_notify_cancel()]


def _copied(error: BaseException) -> BaseException:
    """Return a copy for each caller to raise, whose traceback begins with that of the computation."""
    try:
        return copy.copy(error).with_traceback(error.__traceback__)
    except Exception:
        return error
