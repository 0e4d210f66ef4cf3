"""How many texts and tokens are accepted and not yet ended, in all and for each account, and what the bounds are.

Thread-safe: requests are let in on their own threads, and leave on the scheduler's.
"""

import threading
from collections import Counter
from collections.abc import Sequence as Many

from service.errors import InvalidRequest, Overloaded
from service.scheduling.sequence import Quota, Sequence


class AdmissionControl:
    """What the server has taken on."""

    def __init__(self, max_sequences: int, max_tokens: int) -> None:
        """Begin with nothing.

        Args:
            max_sequences: Texts accepted at once, of all accounts.
            max_tokens: Tokens that those may still read and write.
        """
        self._bounds = (max_sequences, max_tokens)
        self._lock = threading.Lock()
        self._sequences: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def num_sequences(self) -> int:
        """Texts accepted and not ended."""
        return self._sequences.total()

    @property
    def num_tokens(self) -> int:
        """Tokens of those, as they were counted when they were accepted."""
        return self._tokens.total()

    def admit(self, sequences: Many[Sequence]) -> None:
        """Take the sequences of one request on, all or none; each has its `cost`.

        Raises:
            InvalidRequest: they are more than may ever be accepted.
            Overloaded: they cannot all be taken on now.
        """
        quota, wanted = sequences[0].quota, (len(sequences), sum(sequence.cost for sequence in sequences))
        own = (quota.max_sequences, quota.max_queued_tokens)
        _require_possible(wanted, self._bounds, whose="this server")
        _require_possible(wanted, own, whose="this key")
        with self._lock:
            _require_room(wanted, self._bounds, (self.num_sequences, self.num_tokens), whose="this server")
            own_load = (self._sequences[quota.name], self._tokens[quota.name])
            _require_room(wanted, own, own_load, whose="this key")
            self._sequences[quota.name] += wanted[0]
            self._tokens[quota.name] += wanted[1]

    def release(self, sequences: Many[Sequence]) -> None:
        """Let sequences go that were taken on."""
        with self._lock:
            for sequence in sequences:
                _subtract(self._sequences, sequence.quota, 1)
                _subtract(self._tokens, sequence.quota, sequence.cost)


_Pair = tuple[int, int]
_Bounds = tuple[int | None, int | None]
_NAMES = (("sequences", "n"), ("tokens", "max_tokens"))


def _require_possible(wanted: _Pair, bounds: _Bounds, *, whose: str) -> None:
    for (what, param), count, bound in zip(_NAMES, wanted, bounds, strict=True):
        if bound is not None and count > bound:
            raise InvalidRequest(
                f"a request may have at most {bound} {what} at {whose} (prompts × n; tokens of the prompts + "
                f"sequences × max_tokens), got {count}",
                param=param,
            )


def _require_room(wanted: _Pair, bounds: _Bounds, loads: _Pair, *, whose: str) -> None:
    for (what, _), count, bound, load in zip(_NAMES, wanted, bounds, loads, strict=True):
        if bound is not None and load + count > bound:
            raise Overloaded(
                f"the queue is full: {load} of {bound} {what} at {whose} are taken and this request has {count}; try "
                "again later",
                retry_after_s=1,
            )


def _subtract(counter: Counter[str], quota: Quota, count: int) -> None:
    counter[quota.name] -= count
    if counter[quota.name] <= 0:
        del counter[quota.name]
