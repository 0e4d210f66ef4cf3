"""Admission control: limits on unfinished sequences and their tokens, for the server and for each API key.

A request is admitted if there is room for one sequence, and gets more as there is room: requests share two thirds of
each limit, the sequences in equal parts. The last third is for the first sequences of requests, so that a request of
10,000 choices does not crowd out others.

Thread-safe: requests are admitted on their own threads, and their sequences are released on the scheduler's.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

from service.context import RequestContext
from service.errors import InvalidRequest, Overloaded


@dataclass
class _Scope:
    """What the server or an API key has admitted, and its limits; None: no limit."""

    description: str
    max_sequences: int | None = None
    max_tokens: int | None = None
    sequences: int = 0
    tokens: int = 0  # tokens of the sequences to be prefilled and generated, as of their admission
    requests: int = 0  # requests with at least one of the sequences

    def require_room(self, cost: int) -> None:
        """Refuse the first sequence of a request beyond a limit."""
        for what, used, needed, limit in (
            ("sequences", self.sequences, 1, self.max_sequences),
            ("tokens", self.tokens, cost, self.max_tokens),
        ):
            if limit is not None and used + needed > limit:
                raise Overloaded(
                    f"the queue is full: {used} of {limit} {what} {self.description} are in use and this request needs "
                    f"at least {needed}; try again later",
                    retry_after_s=1,
                )

    def has_room_for_more(self, num_held: int, cost: int) -> bool:
        """Return whether a request that holds some sequences may have another one."""
        if self.max_sequences is not None:
            shared = max(1, _two_thirds(self.max_sequences))
            if self.sequences >= shared or num_held >= max(1, shared // self.requests):
                return False
        return self.max_tokens is None or self.tokens + cost <= _two_thirds(self.max_tokens)


def _two_thirds(limit: int) -> int:
    """Return the part of a limit that requests share; the rest is for the first of each."""
    return limit * 2 // 3


class AdmissionControl:
    """Counts of admitted, unfinished sequences and of their tokens; and their limits."""

    def __init__(self, max_sequences: int, max_tokens: int) -> None:
        self._server = _Scope("on this server", max_sequences, max_tokens)
        # The keys with unfinished requests.
        self._keys: WeakValueDictionary[str, _Scope] = WeakValueDictionary()
        self._lock = threading.Lock()

    @property
    def num_sequences(self) -> int:
        """Admitted sequences that have not finished."""
        return self._server.sequences

    @property
    def num_tokens(self) -> int:
        """Tokens of those sequences to be prefilled and generated, as of their admission."""
        return self._server.tokens

    def open(self, context: RequestContext) -> "Admission":
        """Return the admission of a new request, which holds nothing yet."""
        with self._lock:
            key = self._keys.setdefault(context.key, _Scope("for this API key"))
            # The key file may have changed.
            key.max_sequences, key.max_tokens = context.max_sequences, context.max_queued_tokens
        return Admission((self._server, key), self._lock)


class Admission:
    """The admitted, unfinished sequences of one request, by whichever models."""

    def __init__(self, scopes: tuple[_Scope, ...], lock: threading.Lock) -> None:
        self._scopes, self._lock, self._num_held = scopes, lock, 0

    def require_possible(self, cost: int, field: str) -> None:
        """Refuse a request if any of its sequences exceeds a limit by itself; `cost` is the largest, in tokens."""
        for scope in self._scopes:
            if scope.max_tokens is not None and cost > scope.max_tokens:
                limit = f"at most {scope.max_tokens} tokens (prompt tokens + max_tokens) {scope.description}"
                raise InvalidRequest(f"a sequence may have {limit}, got {cost}", param=field)

    def admit(self, costs: Sequence[int]) -> list[Callable[[], None]]:
        """Admit the first of some sequences, as many as there is room for; return the function that releases each.

        `costs` are the tokens of each to be prefilled and generated.

        Raises:
            Overloaded: the request has no unfinished sequence, and there is no room for one.
        """
        releases: list[Callable[[], None]] = []
        with self._lock:
            for cost in costs:
                if not self._num_held:
                    for scope in self._scopes:
                        scope.require_room(cost)
                elif not all(scope.has_room_for_more(self._num_held, cost) for scope in self._scopes):
                    break
                self._count(1, cost)
                releases.append(partial(self._release, cost))
        return releases

    def _release(self, cost: int) -> None:
        with self._lock:
            self._count(-1, -cost)

    def _count(self, num_sequences: int, num_tokens: int) -> None:
        was_active = self._num_held > 0
        self._num_held += num_sequences
        for scope in self._scopes:
            scope.sequences += num_sequences
            scope.tokens += num_tokens
            scope.requests += (self._num_held > 0) - was_active
