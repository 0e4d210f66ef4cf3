"""Rate limits: requests and tokens per minute, counted in Redis or in this process. Does not know HTTP.

The algorithm is the sliding window counter of `limits`: the count of this minute plus a share of the previous minute's.
It approximates a true window of 60 seconds with two numbers per counter.

While Redis is unavailable this process counts alone, from zero: n processes then admit n times as much for a while,
which is better than to refuse everybody.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter

if TYPE_CHECKING:
    from redis import ConnectionPool

log = logging.getLogger(__name__)

What = Literal["requests", "tokens"]

# For a connection, and for each response; a Redis on the same site takes under a millisecond.
REDIS_TIMEOUT_S = 0.25
# Between two attempts while Redis is unavailable: one request per interval waits for the time-out.
REDIS_RETRY_S = 3.0
_WINDOW_S = 60


class RateExceeded(Exception):
    """The requests or tokens per minute are used up.

    Attributes:
        retry_after_s: Seconds until the same request would be admitted if no other came before it; at least 1.
    """

    def __init__(self, what: What, limit: int, retry_after_s: int) -> None:
        super().__init__(f"the limit of {limit} {what} per minute is reached; try again in {retry_after_s} s")
        self.what = what
        self.limit = limit
        self.retry_after_s = retry_after_s


class RateImpossible(Exception):
    """One request needs more tokens than the limit per minute: it can never be admitted."""

    def __init__(self, limit: int, num_tokens: int) -> None:
        super().__init__(f"the limit is {limit} tokens per minute, and this request alone may take {num_tokens}")
        self.limit = limit
        self.num_tokens = num_tokens


class RedisUrlError(ValueError):
    """OSTINATO_REDIS_URL is not a Redis URL; the message does not show it, as it may contain a password."""


@dataclass(frozen=True)
class _Charge:
    what: What
    item: RateLimitItemPerMinute
    cost: int

    @classmethod
    def of(cls, what: What, per_minute: int, cost: int) -> "_Charge":
        return cls(what, RateLimitItemPerMinute(per_minute, namespace="ostinato"), cost)


class RateLimiter:
    """Charges requests or refuses them. Create it in the process that uses it: it may start a thread."""

    def __init__(self, redis_url: str | None = None) -> None:
        """Open the storage; log a warning if Redis is unavailable.

        Args:
            redis_url: `redis://…`, `rediss://…` or `unix://…`; None counts in this process.

        Raises:
            RedisUrlError: the URL is invalid.
        """
        self._own = _Counters(MemoryStorage())
        # The in-memory storage of `limits` is not thread-safe; the lock also makes the charges of a request atomic.
        self._own_lock = threading.Lock()
        self._shared = None if redis_url is None else _RedisCounters(redis_url)

    def charge(
        self, subject: str, *, requests_per_minute: int | None, tokens_per_minute: int | None, num_tokens: int
    ) -> Callable[[], None]:
        """Charge one request and its tokens, or neither.

        Args:
            subject: Who is charged, such as the id of a key.
            requests_per_minute: The limit, at least 1; None: no limit. A new limit starts a new count.
            tokens_per_minute: Likewise.
            num_tokens: The maximum tokens of the request: tokens of its prompts and max_tokens of every choice.

        Returns:
            A function that refunds the whole charge, for a request that is refused after all.

        Raises:
            RateExceeded: it may be admitted later.
            RateImpossible: it can never be admitted.
        """
        charges = []
        if requests_per_minute is not None:
            charges.append(_Charge.of("requests", requests_per_minute, 1))
        if tokens_per_minute is not None:
            if num_tokens > tokens_per_minute:
                raise RateImpossible(tokens_per_minute, num_tokens)
            charges.append(_Charge.of("tokens", tokens_per_minute, num_tokens))
        outcome = self._charge(subject, charges)
        if isinstance(outcome, RateExceeded):
            raise outcome
        return outcome

    def _charge(self, subject: str, charges: Sequence[_Charge]) -> "RateExceeded | Callable[[], None]":
        if self._shared is not None and charges:
            shared = self._shared
            try:
                return shared.charge(subject, charges) or (lambda: shared.refund(subject, charges))
            except _RedisUnavailable:
                pass
        with self._own_lock:
            return self._own.charge(subject, charges) or (lambda: self._refund_own(subject, charges))

    def _refund_own(self, subject: str, charges: Sequence[_Charge]) -> None:
        with self._own_lock:
            self._own.refund(subject, charges)


class _Counters:
    """The rate limit counters in one storage."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._storage = storage
        self._windows = SlidingWindowCounterRateLimiter(storage)

    def charge(self, subject: str, charges: Sequence[_Charge]) -> RateExceeded | None:
        """Charge all or none.

        Each counter is charged in one atomic step, and earlier charges are refunded when a later counter refuses.
        Testing all counters first would let two requests pass the test together and leave one of them half charged.
        This way no limit is ever exceeded; in the moment before the refund a request that would fit may be refused.

        Raises:
            StorageError: the storage failed in between; earlier charges are refunded if the storage allows it.
        """
        for position, charge in enumerate(charges):
            try:
                is_charged = self._hit(subject, charge, charge.cost)
            except StorageError:
                with contextlib.suppress(StorageError):
                    self.refund(subject, charges[:position])
                raise
            if not is_charged:
                self.refund(subject, charges[:position])
                return RateExceeded(charge.what, charge.item.amount, self._wait_s(subject, charge))
        return None

    def refund(self, subject: str, charges: Sequence[_Charge]) -> None:
        """Refund charges."""
        for charge in charges:
            self._hit(subject, charge, -charge.cost)

    def _hit(self, subject: str, charge: _Charge, cost: int) -> bool:
        return self._windows.hit(charge.item, charge.what, subject, cost=cost)

    def _wait_s(self, subject: str, charge: _Charge) -> int:
        window = self._storage.get_sliding_window(charge.item.key_for(charge.what, subject), _WINDOW_S)
        return wait_s(*window, limit=charge.item.amount, cost=charge.cost)


def wait_s(previous: int, previous_ttl_s: float, current: int, current_ttl_s: float, *, limit: int, cost: int) -> int:
    """Return the seconds until a cost fits into a sliding window, if nothing else is charged meanwhile.

    Args:
        previous: Count of the previous minute; its weight is the remaining share of this minute.
        previous_ttl_s: Seconds left of this minute, if there is a previous count.
        current: Count of this minute.
        current_ttl_s: Seconds until this minute's count expires, at the end of the next minute.
        limit: The limit per minute; at least `cost`.
        cost: The cost to fit.

    Returns:
        Whole seconds, rounded up, at least 1.
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


def check_redis_url(url: str) -> None:
    """Validate a Redis URL without connecting.

    Raises:
        RedisUrlError: the URL is invalid.
    """
    _connection_pool(url)


class _RedisUnavailable(Exception):
    """Redis is unavailable, or was a moment ago."""


class _RedisCounters:
    """The counters in Redis, shared by every process that uses it."""

    def __init__(self, url: str) -> None:
        self._storage = RedisStorage(url, connection_pool=_connection_pool(url), wrap_exceptions=True)
        self._counters = _Counters(self._storage)
        self._lock = threading.Lock()
        self._is_unavailable = False
        self._retry_at = 0.0
        try:
            self._storage.get_sliding_window("start", _WINDOW_S)
        except StorageError as error:
            self._note_loss(error)

    def charge(self, subject: str, charges: Sequence[_Charge]) -> RateExceeded | None:
        """Charge all or none.

        Raises:
            _RedisUnavailable: nothing was charged, as far as is known.
        """
        if not self._may_try():
            raise _RedisUnavailable
        try:
            refusal = self._counters.charge(subject, charges)
        except StorageError as error:
            self._note_loss(error)
            raise _RedisUnavailable from error
        if self._is_unavailable:
            self._note_return()
        return refusal

    def refund(self, subject: str, charges: Sequence[_Charge]) -> None:
        """Refund charges; the refund is lost if Redis has become unavailable."""
        with contextlib.suppress(StorageError):
            self._counters.refund(subject, charges)

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

    def _note_loss(self, error: StorageError) -> None:
        with self._lock:
            self._retry_at = time.monotonic() + REDIS_RETRY_S
            if not self._is_unavailable:
                self._is_unavailable = True
                cause = error.storage_error
                log.warning("Redis is unavailable, this process counts alone: %s: %s", type(cause).__name__, cause)

    def _note_return(self) -> None:
        with self._lock:
            if self._is_unavailable:
                self._is_unavailable = False
                log.info("Redis is available again")


def _connection_pool(url: str) -> "ConnectionPool":
    """Return a connection pool; nothing is connected yet."""
    # Imported here: 8 MB, only for those who use Redis.
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
        # Without the cause, which quotes parts of the URL.
        raise RedisUrlError("OSTINATO_REDIS_URL: must be like redis://localhost:6379/0") from None
    return pool
