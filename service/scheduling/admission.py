"""How many texts and tokens are accepted and not yet ended, in all and for each account, and what the bounds are.

Thread-safe: requests are let in on their own threads, and leave on the scheduler's.
"""

import threading
from collections import Counter
from collections.abc import Sequence as Many

from service.errors import InvalidRequest, Overloaded
from service.scheduling.sequence import Account, Sequence


class Ledger:
    """What the server has taken on."""

    def __init__(self, max_texts: int, max_tokens: int) -> None:
        """Begin with nothing.

        Args:
            max_texts: Texts accepted at once, of all accounts.
            max_tokens: Tokens that those may still read and write.
        """
        self._bounds = (max_texts, max_tokens)
        self._lock = threading.Lock()
        self._texts: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def num_texts(self) -> int:
        """Texts accepted and not ended."""
        return self._texts.total()

    @property
    def num_tokens(self) -> int:
        """Tokens of those, as they were counted when they were accepted."""
        return self._tokens.total()

    def enter(self, sequences: Many[Sequence]) -> None:
        """Take the sequences of one request on, all or none; each has its `cost`.

        Raises:
            InvalidRequest: they are more than may ever be accepted.
            Overloaded: they cannot all be taken on now.
        """
        account, wanted = sequences[0].account, (len(sequences), sum(sequence.cost for sequence in sequences))
        own = (account.max_texts, account.max_text_tokens)
        _require_possible(wanted, self._bounds, whose="this server")
        _require_possible(wanted, own, whose="this key")
        with self._lock:
            _require_room(wanted, self._bounds, (self.num_texts, self.num_tokens), whose="this server")
            own_load = (self._texts[account.name], self._tokens[account.name])
            _require_room(wanted, own, own_load, whose="this key")
            self._texts[account.name] += wanted[0]
            self._tokens[account.name] += wanted[1]

    def leave(self, sequences: Many[Sequence]) -> None:
        """Let sequences go that were taken on."""
        with self._lock:
            for sequence in sequences:
                _subtract(self._texts, sequence.account, 1)
                _subtract(self._tokens, sequence.account, sequence.cost)


_Pair = tuple[int, int]
_Bounds = tuple[int | None, int | None]
_NAMES = (("texts", "n"), ("tokens", "max_tokens"))


def _require_possible(wanted: _Pair, bounds: _Bounds, *, whose: str) -> None:
    for (what, param), count, bound in zip(_NAMES, wanted, bounds, strict=True):
        if bound is not None and count > bound:
            raise InvalidRequest(
                f"a request may have at most {bound} {what} at {whose} (prompts × n texts; tokens of the prompts + "
                f"texts × max_tokens), got {count}",
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


def _subtract(counter: Counter[str], account: Account, count: int) -> None:
    counter[account.name] -= count
    if counter[account.name] <= 0:
        del counter[account.name]
