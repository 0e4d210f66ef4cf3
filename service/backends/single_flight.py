"""A single-flight LRU cache: concurrent requests for a key share one computation.

Knows keys, values and threads. Does not know what is computed, or for whom.
"""

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


class Abandoned(Exception):
    """All requests for a value have been cancelled."""


class SingleFlightCache(Generic[K, V]):
    """A thread-safe single-flight LRU cache with a memory limit.

    The most recently used value is kept even if it alone is larger than the limit.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._waiting: dict[K, list[Future[V]]] = {}
        self._lock = threading.Lock()  # never held while a value is computed

    def get(self, key: K, compute: Callable[[Callable[[], None]], V], request: "Future[V]") -> V:
        """Return a value from the cache, or compute it on the thread of the first caller while the others wait.

        `compute` gets a function to call between its steps, which raises `Abandoned` once all requests are cancelled.
        The caller's own `request` is pending; `request.cancel()`, from another thread, ends its wait.

        Raises:
            CancelledError: the request was cancelled.
            Exception: what `compute` raised, in every waiting caller; the next caller computes again.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            waiting = self._waiting.setdefault(key, [])
            waiting.append(request)
            is_first = len(waiting) == 1
        if is_first:
            self._compute(key, compute)
        return request.result()

    def _compute(self, key: K, compute: Callable[[Callable[[], None]], V]) -> None:
        try:
            self._abandon_if_cancelled(key)
            value = compute(lambda: self._abandon_if_cancelled(key))
        except Abandoned:
            return
        except BaseException as error:
            for request in self._take_waiting(key):
                # Each caller raises its own, with its own traceback.
                request.set_exception(copy.copy(error))
            return
        with self._lock:
            self._keep(key, value)
        for request in self._take_waiting(key):
            request.set_result(value)

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

    def _keep(self, key: K, value: V) -> None:
        self._kept[key] = value
        while len(self._kept) > 1 and sum(kept.num_bytes for kept in self._kept.values()) > self._max_bytes:
            self._kept.popitem(last=False)
