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


class TooManyPending(Exception):
    """As many values as may be computed at a time are pending, and this is another one."""


class SingleFlightCache(Generic[K, V]):
    """A thread-safe single-flight LRU cache with a memory limit.

    The most recently used value is kept even if it alone is larger than the limit.

    Args:
        max_bytes: Limit of the values' sizes.
        max_pending: Limit of the distinct keys whose values are being computed; none by default.
    """

    def __init__(self, max_bytes: int, max_pending: int | None = None) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._max_pending = max_pending
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._waiting: dict[K, list[Future[V]]] = {}
        self._lock = threading.Lock()  # never held while a value is computed

    def get(self, key: K, compute: Callable[[Callable[[], None]], V], request: "Future[V] | None" = None) -> V:
        """Return a value from the cache, or compute it on the thread of the first caller while the others wait.

        `compute` gets a function to call between its steps, which raises `Abandoned` once all requests are cancelled.
        The caller's own `request` is pending; `request.cancel()`, from another thread, ends its wait. Without one it
        can't be cancelled.

        Raises:
            CancelledError: the request was cancelled.
            TooManyPending: the value is not cached, and `max_pending` others are being computed.
            Exception: what `compute` raised, in every waiting caller; the next caller computes again.
        """
        request = request or Future()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._max_pending is not None and key not in self._waiting and len(self._waiting) >= self._max_pending:
                raise TooManyPending
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
            self._keep(key, value)
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

    def _keep(self, key: K, value: V) -> None:
        self._kept[key] = value
        self._num_bytes += value.num_bytes
        while len(self._kept) > 1 and self._num_bytes > self._max_bytes:
            _, evicted = self._kept.popitem(last=False)
            self._num_bytes -= evicted.num_bytes


def _copied(error: BaseException) -> BaseException:
    """Return a copy for each caller to raise, whose traceback begins with that of the computation."""
    try:
        return copy.copy(error).with_traceback(error.__traceback__)
    except Exception:
        return error
