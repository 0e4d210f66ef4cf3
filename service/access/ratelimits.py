"""Rate limits: requests and tokens per minute, counted in Redis or in this process.

The algorithm is the sliding window counter of `limits`: the count of this minute plus a share of the previous minute's.
It approximates a true window of 60 seconds with two numbers per counter.

While Redis is unavailable this process counts alone, from zero: n processes then admit n times as much for a while,
which is better than refusing everybody.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage

from service.errors import ConfigurationError, InvalidRequest, RateLimited

if TYPE_CHECKING:
    from redis import ConnectionPool

log = logging.getLogger(__name__)

What = Literal["requests", "tokens"]

# For a connection, and for each response; Redis on the same site takes under a millisecond.
REDIS_TIMEOUT_S = 0.25
# Between two attempts while Redis is unavailable: one request per interval waits for the time-out.
REDIS_RETRY_S = 3.0
_WINDOW_S = 60


class RateLimiter:
    """Charges requests and tokens or refuses them. Create it in the process that uses it: it may start a thread."""

    def __init__(self, redis_url: str | None = None) -> None:
        """Open the storage; log a warning if Redis is unavailable.

        The URL is `redis://…`, `rediss://…` or `unix://…`; None counts in this process.
        """
        # The storage in memory is not thread-safe.
        self._own = _Counters(MemoryStorage(), threading.Lock())
        self._shared: _Counters | None = None
        self._lock = threading.Lock()
        self._is_unavailable = False  # Redis
        self._retry_at = 0.0
        if redis_url is not None:
            storage = RedisStorage(redis_url, connection_pool=connection_pool(redis_url), wrap_exceptions=True)
            self._shared = _Counters(storage, contextlib.nullcontext())
            try:
                storage.get_sliding_window("start", _WINDOW_S)
            except StorageError as error:
                self._mark_unavailable(error)

    def charge(
        self,
        subject: str,
        what: What,
        per_minute: int | None,
        cost: int,
        total: int | None = None,
        param: str = "max_tokens",
    ) -> Callable[[], None]:
        """Charge a subject, such as the id of a key; return a function that refunds it as far as it still counts.

        Args:
            subject: Who is charged.
            what: "requests" or "tokens".
            per_minute: The limit, at least 1; None: no limit. A new limit starts a new count.
            cost: 1 for a request; else the maximum tokens of the request, or of the part to charge now.
            total: Cost of the whole request, if `cost` is a part of it.
            param: The field that an error names.

        Raises:
            RateLimited: the limit is reached; the request may be admitted later.
            InvalidRequest: the request alone exceeds the limit and can never be admitted.
        """
        if per_minute is None:
            return lambda: None
        if (whole := max(cost, total or 0)) > per_minute:
            message = f"this request alone may use up to {whole} {what}, but the limit is {per_minute} per minute"
            raise InvalidRequest(message, param=param)
        key = RateLimitItemPerMinute(per_minute, namespace="sostenuto").key_for(what, subject)
        counters, retry_after_s = self._charge(key, per_minute, cost)
        if retry_after_s is not None:
            message = f"the limit of {per_minute} {what} per minute is reached; try again in {retry_after_s} s"
            raise RateLimited(message, retry_after_s=retry_after_s)
        return lambda: counters.refund(key, per_minute, cost)

    def _charge(self, key: str, per_minute: int, cost: int) -> "tuple[_Counters, int | None]":
        """Charge in Redis or, while that is unavailable, in this process; return the counters and their result."""
        if self._shared is not None and self._may_try():
            try:
                retry_after_s = self._shared.charge(key, per_minute, cost)
            except StorageError as error:
                # Nothing was charged, as far as we know.
                self._mark_unavailable(error)
            else:
                self._mark_available()
                return self._shared, retry_after_s
        return self._own, self._own.charge(key, per_minute, cost)

    def _may_try(self) -> bool:
        """Return whether to try Redis; while it is unavailable, one request every `REDIS_RETRY_S` may."""
        if not self._is_unavailable:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._retry_at:
                return False
            self._retry_at = now + REDIS_RETRY_S
            return True

    def _mark_unavailable(self, error: StorageError) -> None:
        with self._lock:
            self._retry_at = time.monotonic() + REDIS_RETRY_S
            if not self._is_unavailable:
                self._is_unavailable = True
                cause = error.storage_error
                log.warning(
                    "Redis is unavailable; this gateway counts rate limits in memory: %s: %s",
                    type(cause).__name__,
                    cause,
                )

    def _mark_available(self) -> None:
        if self._is_unavailable:
            with self._lock:
                if self._is_unavailable:
                    self._is_unavailable = False
                    log.info("Redis is available again")


class _Counters:
    """The counters in one storage; the key of one names a subject, what is counted, and the limit per minute."""

    def __init__(self, storage: MemoryStorage | RedisStorage, lock: contextlib.AbstractContextManager[object]) -> None:
        self._storage, self._storage_lock = storage, lock

    def charge(self, key: str, per_minute: int, cost: int) -> int | None:
        """Charge; return None, or the seconds after which the charge would fit if nothing else were charged."""
        with self._storage_lock:
            if self._storage.acquire_sliding_window_entry(key, per_minute, _WINDOW_S, cost):
                return None
            return wait_s(*self._storage.get_sliding_window(key, _WINDOW_S), limit=per_minute, cost=cost)

    def refund(self, key: str, per_minute: int, cost: int) -> None:
        """Refund a charge, but not below zero in the current window, which would admit too much.

        The refund is lost if Redis has become unavailable.
        """
        with contextlib.suppress(StorageError), self._storage_lock:
            _, _, current, _ = self._storage.get_sliding_window(key, _WINDOW_S)
            if counted := min(cost, current):
                self._storage.acquire_sliding_window_entry(key, per_minute, _WINDOW_S, -counted)


def wait_s(previous: int, previous_ttl_s: float, current: int, current_ttl_s: float, *, limit: int, cost: int) -> int:
    """Return the seconds until a cost fits into a sliding window, if nothing else is charged meanwhile.

    Whole seconds, rounded up, at least 1.

    Args:
        previous: Count of the previous minute; its weight is the remaining share of this minute.
        previous_ttl_s: Seconds left of this minute, if there is a previous count.
        current: Count of this minute.
        current_ttl_s: Seconds until this minute's count expires, at the end of the next minute.
        limit: The limit per minute.
        cost: At most `limit`.
    """
    room = limit - current - cost
    if room >= 0:
        wait = _seconds_until_below(previous, room + 1) - (_WINDOW_S - previous_ttl_s)
    else:
        wait = max(0.0, current_ttl_s - _WINDOW_S) + _seconds_until_below(current, limit - cost + 1)
    return max(1, math.floor(wait) + 1)


def _seconds_until_below(count: int, limit: int) -> float:
    """Return the seconds into the next minute after which a minute's count weighs less than `limit`."""
    return _WINDOW_S * max(0, count - limit) / count if count else 0.0


def connection_pool(url: str) -> "ConnectionPool":
    """Return a pool without connections yet; raise ConfigurationError if the URL is invalid."""
    # Imported here: 8 MB, needed only with Redis.
    from redis import ConnectionPool, RedisError  # noqa: PLC0415

    try:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
            # Each waiting thread has a connection; at its limit the pool raises an error instead of waiting.
            max_connections=2**16,
            # The older protocol: a shorter handshake, and no push messages from Redis.
            protocol=2,
        )
        # An unknown option is detected only when a connection is prepared.
        pool.make_connection()
    except (ValueError, TypeError, RedisError):
        # Without the URL and the cause, which quotes parts of it: it may contain a password.
        raise ConfigurationError("SOSTENUTO_REDIS_URL: must be like redis://localhost:6379/0") from None
    return pool
