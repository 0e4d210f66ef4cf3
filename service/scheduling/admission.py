"""Admission control: limits on unfinished sequences and their tokens, for the server and for each API key.

Thread-safe: requests are admitted on their own threads and released on the scheduler's.
"""

import threading
from collections import Counter
from collections.abc import Sequence as Many

from service.context import Quota
from service.errors import InvalidRequest, Overloaded
from service.scheduling.sequence import Sequence


class AdmissionControl:
    """Counts of admitted, unfinished sequences, and of their tokens to be prefilled and generated; and their limits."""

    def __init__(self, max_sequences: int, max_tokens: int) -> None:
        self._limits = (max_sequences, max_tokens)
        self._lock = threading.Lock()
        self._sequences: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def num_sequences(self) -> int:
        """Admitted sequences that have not finished."""
        return self._sequences.total()

    @property
    def num_tokens(self) -> int:
        """Total `cost` of those sequences, as of their admission."""
        return self._tokens.total()

    def admit(self, sequences: Many[Sequence]) -> None:
        """Admit the sequences of one request, all or none; their `cost` is set.

        Raises:
            InvalidRequest: the request alone exceeds a limit.
            Overloaded: a limit would be exceeded now.
        """
        quota, demand = sequences[0].quota, (len(sequences), sum(sequence.cost for sequence in sequences))
        key_limits = (quota.max_sequences, quota.max_queued_tokens)
        _require_possible(demand, self._limits, where="on this server")
        _require_possible(demand, key_limits, where="for this API key")
        with self._lock:
            _require_capacity(demand, self._limits, (self.num_sequences, self.num_tokens), where="on this server")
            key_load = (self._sequences[quota.name], self._tokens[quota.name])
            _require_capacity(demand, key_limits, key_load, where="for this API key")
            self._sequences[quota.name] += demand[0]
            self._tokens[quota.name] += demand[1]

    def release(self, sequences: Many[Sequence]) -> None:
        """Release admitted sequences."""
        with self._lock:
            for sequence in sequences:
                _subtract(self._sequences, sequence.quota, 1)
                _subtract(self._tokens, sequence.quota, sequence.cost)


# Sequences and tokens.
_Load = tuple[int, int]
_Limits = tuple[int | None, int | None]
# What is counted, how, and the field that an error names.
_COUNTS = (
    ("sequences", "prompts × n", "n"),
    ("tokens", "prompt tokens + sequences × max_tokens", "max_tokens"),
)


def _require_possible(demand: _Load, limits: _Limits, *, where: str) -> None:
    for (what, formula, param), count, limit in zip(_COUNTS, demand, limits, strict=True):
        if limit is not None and count > limit:
            raise InvalidRequest(
                f"a request may have at most {limit} {what} ({formula}) {where}, got {count}", param=param
            )


def _require_capacity(demand: _Load, limits: _Limits, loads: _Load, *, where: str) -> None:
    for (what, _, _), count, limit, load in zip(_COUNTS, demand, limits, loads, strict=True):
        if limit is not None and load + count > limit:
            raise Overloaded(
                f"the queue is full: {load} of {limit} {what} {where} are in use and this request needs {count}; try "
                "again later",
                retry_after_s=1,
            )


def _subtract(counter: Counter[str], quota: Quota, count: int) -> None:
    counter[quota.name] -= count
    if counter[quota.name] <= 0:
        del counter[quota.name]
