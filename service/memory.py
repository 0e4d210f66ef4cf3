"""The memory budget: bytes that the requests in flight may hold for their bodies, encoded prompts and responses."""

import threading

from service.errors import InvalidRequest, MemoryExhausted

# Uncounted bytes per request, so that small requests are admitted while the budget is full.
FREE_BYTES = 64 * 2**10


class MemoryBudget:
    """Bytes that all requests in flight may hold together; thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self._num_bytes = max_bytes, 0
        self._lock = threading.Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def resize(self, held: int, new: int) -> None:
        """Replace `held` bytes by `new`; raise MemoryExhausted if that is more and others hold too much memory."""
        with self._lock:
            if new > held and self._num_bytes - held + new > self.max_bytes:
                raise MemoryExhausted(
                    f"the memory for requests is full: {self._num_bytes - held} of {self.max_bytes} bytes are in use "
                    f"and this request needs {new}; try again later",
                    retry_after_s=1,
                )
            self._num_bytes += new - held


class MemoryLease:
    """The part of a budget that one request holds until `close`; for one thread at a time."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget, self._held = budget, 0

    def hold(self, num_bytes: int, field: str, *, param: str | None = None) -> None:
        """Replace the bytes held by `num_bytes`, an upper estimate.

        `field` names what needs them in the error message; `param` is the request's field, if it is one.

        Raises:
            InvalidRequest: it exceeds the whole budget.
            MemoryExhausted: other requests hold too much memory.
        """
        limit = self._budget.max_bytes
        if num_bytes > limit:
            message = f"{field} must need at most {limit} bytes of memory, got {num_bytes} (an estimate)"
            raise InvalidRequest(message, param=param)
        counted = num_bytes if num_bytes > FREE_BYTES else 0
        self._budget.resize(self._held, counted)
        self._held = counted

    def shrink(self, num_bytes: int) -> None:
        """Shrink the lease to `num_bytes`; do nothing if it holds no more."""
        if num_bytes < self._held:
            self.hold(num_bytes, "")

    def close(self) -> None:
        """Release everything; idempotent."""
        self.shrink(0)
