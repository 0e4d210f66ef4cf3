"""Admission control: limits on unfinished sequences and their tokens, for the server and for each API key.

A request is admitted if there is room for one sequence, and gets more as there is room: all requests together may fill
two thirds of each limit, in equal shares. The last third is for the first sequences of requests, so that a request of
10,000 choices keeps out no other.

Thread-safe: requests are admitted on their own threads, and their sequences are released on the scheduler's.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from service.context import ANYBODY, Quota
from service.errors import InvalidRequest, Overloaded


@dataclass
class _Load:
    """What the server or an API key has admitted.

    Attributes:
        tokens: Tokens of the sequences to be prefilled and generated, as of their admission.
        requests: Requests with at least one of the sequences.
    """

    sequences: int = 0
    tokens: int = 0
    requests: int = 0


@dataclass(frozen=True)
class _Limits:
    sequences: int | None
    tokens: int | None
    scope: str

    def require_possible(self, cost: int) -> None:
        if self.tokens is not None and cost > self.tokens:
            raise InvalidRequest(
                f"a sequence may have at most {self.tokens} tokens (prompt tokens + max_tokens) {self.scope}, got "
                f"{cost}",
                param="max_tokens",
            )

    def require_room(self, load: _Load, cost: int) -> None:
        """Refuse the first sequence of a request beyond a limit."""
        for what, used, needed, limit in (
            ("sequences", load.sequences, 1, self.sequences),
            ("tokens", load.tokens, cost, self.tokens),
        ):
            if limit is not None and used + needed > limit:
                raise Overloaded(
                    f"the queue is full: {used} of {limit} {what} {self.scope} are in use and this request needs at "
                    f"least {needed}; try again later",
                    retry_after_s=1,
                )

    def has_room_for_more(self, load: _Load, num_held: int, cost: int) -> bool:
        """Return whether a request that holds some sequences may have another one."""
        if self.sequences is not None:
            shared = max(1, two_thirds(self.sequences))
            if load.sequences >= shared or num_held >= max(1, shared // load.requests):
                return False
        return self.tokens is None or load.tokens + cost <= two_thirds(self.tokens)


def two_thirds(limit: int) -> int:
    """Return the part of a limit that requests share; the rest is for the first of each."""
    return limit * 2 // 3


class AdmissionControl:
    """Counts of admitted, unfinished sequences and of their tokens; and their limits."""

    def __init__(self, max_sequences: int, max_tokens: int) -> None:
        self._limits, self._load = _Limits(max_sequences, max_tokens, "on this server"), _Load()
        # Of the keys of unfinished requests.
        self._loads_by_key: WeakValueDictionary[str, _Load] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def num_sequences(self) -> int:
        """Admitted sequences that have not finished."""
        return self._load.sequences

    @property
    def num_tokens(self) -> int:
        """Tokens of those sequences to be prefilled and generated, as of their admission."""
        return self._load.tokens

    def open(self, quota: Quota = ANYBODY) -> "Admission":
        """Return the admission of a new request, which holds nothing yet."""
        limits = _Limits(quota.max_sequences, quota.max_queued_tokens, "for this API key")
        with self._lock:
            load = self._loads_by_key.setdefault(quota.name, _Load())
        return Admission(((self._limits, self._load), (limits, load)), self._lock)


class Admission:
    """The admitted, unfinished sequences of one request."""

    def __init__(self, scopes: "tuple[tuple[_Limits, _Load], ...]", lock: threading.Lock) -> None:
        self._scopes, self._lock, self._num_held = scopes, lock, 0
        # Costs of admitted sequences that were not created yet.
        self._reserved: deque[int] = deque()

    def require_possible(self, cost: int) -> None:
        """Refuse a request one of whose sequences alone exceeds a limit; `cost` is the largest, in tokens.

        Raises:
            InvalidRequest: it does.
        """
        for limits, _ in self._scopes:
            limits.require_possible(cost)

    def admit(self, costs: Sequence[int]) -> int:
        """Admit the first of some sequences, as many as there is room for, and return how many.

        Args:
            costs: Tokens of each to be prefilled and generated.

        Raises:
            Overloaded: the request has no unfinished sequence, and there is no room for one.
        """
        with self._lock:
            for number, cost in enumerate(costs):
                is_first = not self._num_held
                if is_first:
                    for limits, load in self._scopes:
                        limits.require_room(load, cost)
                elif not all(limits.has_room_for_more(load, self._num_held, cost) for limits, load in self._scopes):
                    return number
                self._count(1, cost)
                self._reserved.append(cost)
            return len(costs)

    def take(self) -> Callable[[], None]:
        """Return the function that releases the next admitted sequence, which the caller creates."""
        return partial(self._release, self._reserved.popleft())

    def close(self) -> None:
        """Release the admitted sequences that were not created."""
        while self._reserved:
            self.take()()

    def _release(self, cost: int) -> None:
        with self._lock:
            self._count(-1, -cost)

    def _count(self, num_sequences: int, num_tokens: int) -> None:
        was_active = self._num_held > 0
        self._num_held += num_sequences
        for _, load in self._scopes:
            load.sequences += num_sequences
            load.tokens += num_tokens
            load.requests += (self._num_held > 0) - was_active
