"""An LRU cache with a memory limit."""

from collections import OrderedDict
from collections.abc import Hashable
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
        """Add a value, and evict those that were used the longest time ago."""
        replaced = self._values.pop(key, None)
        self._values[key] = value
        self._num_bytes += value.num_bytes - (replaced.num_bytes if replaced is not None else 0)
        while len(self._values) > 1 and self._num_bytes > self._max_bytes:
            _, evicted = self._values.popitem(last=False)
            self._num_bytes -= evicted.num_bytes
