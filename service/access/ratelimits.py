"""Requests and tokens per minute of whoever calls, counted in Redis or in this process. Does not know HTTP.

The counting is `limits`' sliding window counter: the count of this minute and a share of the last one's. It is nearly a
true window of 60 seconds at two numbers a counter.

While Redis does not answer this process counts alone, from nothing: n processes then let through n times as much for a
while, which is better than to answer nobody.
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

# For a connection, and for each answer; a Redis of the same site takes under a millisecond.
REDIS_TIMEOUT_S = 0.25
# Between two attempts at a Redis that is away: one request in that time pays the time-out.
REDIS_RETRY_S = 3.0
_WINDOW_S = 60


class RateExceeded(Exception):
    """A minute's requests or tokens are used up.

    Attributes:
        retry_after_s: When the same request would pass if no other came before it; at least 1.
    """

    def __init__(self, what: What, limit: int, retry_after_s: int) -> None:
        super().__init__(f"the limit of {limit} {what} per minute is reached; try again in {retry_after_s} s")
        self.what = what
        self.limit = limit
        self.retry_after_s = retry_after_s


class RateImpossible(Exception):
    """One request wants more tokens than a minute has: it can never pass."""

    def __init__(self, limit: int, num_tokens: int) -> None:
        super().__init__(f"the limit is {limit} tokens per minute, and this request alone may take {num_tokens}")
        self.limit = limit
        self.num_tokens = num_tokens


class RedisUrlError(ValueError):
    """OSTINATO_REDIS_URL is no address of a Redis; the message does not show it, as it may hold a password."""


@dataclass(frozen=True)
class _Charge:
    what: What
    item: RateLimitItemPerMinute
    cost: int

    @classmethod
    def of(cls, what: What, per_minute: int, cost: int) -> "_Charge":
        return cls(what, RateLimitItemPerMinute(per_minute, namespace="ostinato"), cost)


class RateLimiter:
    """Charges requests, or refuses them. To be made in the process that uses it: it has a thread, at times."""

    def __init__(self, redis_url: str | None = None) -> None:
        """Open the storage; a Redis that does not answer is a warning.

        Args:
            redis_url: `redis://…`, `rediss://…` or `unix://…`; None counts in this process.

        Raises:
            RedisUrlError: the address is none.
        """
        self._own = _Counters(MemoryStorage())
        # `limits`' memory is not safe among threads; under a lock a request's charges are one step, too.
        self._own_lock = threading.Lock()
        self._shared = None if redis_url is None else _RedisCounters(redis_url)

    def charge(
        self, subject: str, *, requests_per_minute: int | None, tokens_per_minute: int | None, num_tokens: int
    ) -> Callable[[], None]:
        """Charge one request and its tokens, or neither.

        Args:
            subject: Who is charged, such as the id of a key.
            requests_per_minute: The limit, at least 1; None is none. A new limit begins a new count.
            tokens_per_minute: Likewise.
            num_tokens: What the request may take at most: tokens of its prompts and max_tokens of every choice.

        Returns:
            A function that gives it all back, for a request that is refused after all.

        Raises:
            RateExceeded: later it may pass.
            RateImpossible: it never will.
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

    def close(self) -> None:
        """Close the connections to Redis; the next charge would open them again."""
        if self._shared is not None:
            self._shared.close()

    def _charge(self, subject: str, charges: Sequence[_Charge]) -> "RateExceeded | Callable[[], None]":
        if self._shared is not None and charges:
            shared = self._shared
            try:
                return shared.charge(subject, charges) or (lambda: shared.refund(subject, charges))
            except _RedisAway:
                pass
        with self._own_lock:
            return self._own.charge(subject, charges) or (lambda: self._refund_own(subject, charges))

    def _refund_own(self, subject: str, charges: Sequence[_Charge]) -> None:
        with self._own_lock:
            self._own.refund(subject, charges)


class _Counters:
    """The counters in one storage."""

    def __init__(self, storage: MemoryStorage | RedisStorage) -> None:
        self._storage = storage
        self._windows = SlidingWindowCounterRateLimiter(storage)

    def charge(self, subject: str, charges: Sequence[_Charge]) -> RateExceeded | None:
        """Charge all or none.

        Each counter is charged in one atomic step, and what was charged is given back when a later one refuses. To
        test all first would let two requests pass the test together and leave one of them half charged. This way no
        limit is ever exceeded; in the moment before the refund another request may be refused that would have fitted.

        Raises:
            StorageError: the storage failed in between; what was charged before is given back if the storage allows it.
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
        """Give back what was charged."""
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
        previous: Count of the last minute, which weighs as much as there is left of this one.
        previous_ttl_s: What is left of this minute, where there is a last one.
        current: Count of this minute.
        current_ttl_s: Until this minute's count is forgotten, which is at the end of the next minute.
        limit: What a minute has; at least `cost`.
        cost: What is to fit.

    Returns:
        Whole seconds, rounded up, at least 1.
    """
    room = limit - current - cost
    if room >= 0:
        wait = _until_fewer(previous, room + 1) - (_WINDOW_S - previous_ttl_s)
    else:
        wait = max(0.0, current_ttl_s - _WINDOW_S) + _until_fewer(current, limit - cost + 1)
    return max(1, math.floor(wait) + 1)


def _until_fewer(count: int, bound: int) -> float:
    """Return the seconds into the next minute after which a minute's count weighs less than `bound`."""
    return _WINDOW_S * max(0, count - bound) / count if count else 0.0


def check_redis_url(url: str) -> None:
    """Say whether an address can be that of a Redis; nothing is connected to.

    Raises:
        RedisUrlError: it cannot.
    """
    _connections(url)


class _RedisAway(Exception):
    """Redis does not answer now, or did not a moment ago."""


class _RedisCounters:
    """The counters that every process with the same Redis shares, as long as it answers."""

    def __init__(self, url: str) -> None:
        self._pool = _connections(url)
        self._storage = RedisStorage(url, connection_pool=self._pool, wrap_exceptions=True)
        self._counters = _Counters(self._storage)
        self._lock = threading.Lock()
        self._away = False
        self._ask_at = 0.0
        try:
            self._storage.get_sliding_window("start", _WINDOW_S)
        except StorageError as error:
            self._note_loss(error)

    def charge(self, subject: str, charges: Sequence[_Charge]) -> RateExceeded | None:
        """Charge all or none.

        Raises:
            _RedisAway: nothing was charged, as far as one can know.
        """
        if not self._may_ask():
            raise _RedisAway
        try:
            refusal = self._counters.charge(subject, charges)
        except StorageError as error:
            self._note_loss(error)
            raise _RedisAway from error
        if self._away:
            self._note_return()
        return refusal

    def refund(self, subject: str, charges: Sequence[_Charge]) -> None:
        """Give back what was charged; lost if Redis went away since."""
        with contextlib.suppress(StorageError):
            self._counters.refund(subject, charges)

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()

    def _may_ask(self) -> bool:
        """Say whether to try; of all who come while Redis is away, one every few seconds may."""
        if not self._away:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._ask_at:
                return False
            self._ask_at = now + REDIS_RETRY_S
            return True

    def _note_loss(self, error: StorageError) -> None:
        with self._lock:
            self._ask_at = time.monotonic() + REDIS_RETRY_S
            if not self._away:
                self._away = True
                why = error.storage_error
                log.warning("Redis is away, this process counts alone: %s: %s", type(why).__name__, why)

    def _note_return(self) -> None:
        with self._lock:
            if self._away:
                self._away = False
                log.info("Redis is back")


def _connections(url: str) -> "ConnectionPool":
    """Prepare connections; none is made yet."""
    # 8 MB, which only those pay who use it.
    from redis import ConnectionPool, RedisError  # noqa: PLC0415

    try:
        pool = ConnectionPool.from_url(
            url,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
            # Each thread that waits for an answer has one; the pool's own limit is an error, not a wait.
            max_connections=2**16,
            # The older protocol: fewer words at the start of a connection, and nothing that Redis sends unasked.
            protocol=2,
        )
        # An option that there is not is only found when a connection is prepared.
        pool.make_connection()
    except (ValueError, TypeError, RedisError):
        # Without the cause: it quotes parts of the address.
        raise RedisUrlError("OSTINATO_REDIS_URL: must be like redis://localhost:6379/0") from None
    return pool
