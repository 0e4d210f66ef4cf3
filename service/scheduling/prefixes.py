"""States after texts that were read or written before: whoever begins a text with the same tokens need not read them.

A recurrent state has the same size after ten tokens as after ten thousand, so one entry is one row of floats. And it is
the same to the bit however it came to be (`docs/architecture.md`), so a text does not depend on what is found here.

Used by the scheduler's thread alone, so nothing is locked.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Hashable
from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Self

import numpy as np

# What an entry takes beside its floats: key, counts, objects (measured with tracemalloc: 450).
OVERHEAD_BYTES = 512
# While a text is read, states are kept at least so many tokens apart, and beyond the first `FAR` ones that many: a text
# that begins alike has few to read again, and a long one does not push all others out.
SPACING, FAR = 128, 1024


class Prefix:
    """Names the tokens that a state has read: by their hash, which grows with them.

    Attributes:
        scope: Where the tokens mean what they mean: whose they are, the model that reads them, and the state that it
            begins with. Prefixes of different scopes are strangers.
        length: Tokens so far.
        kept: Of those, how many had been added when a state was last kept.
    """

    __slots__ = ("_hash", "kept", "length", "scope")

    def __init__(self, scope: Hashable) -> None:
        """Begin with no tokens."""
        self.scope, self.length, self.kept = scope, 0, 0
        # Of 128 bits no two are found to be equal, by chance or by trying.
        self._hash = hashlib.blake2b(digest_size=16)

    def copy(self) -> Self:
        """Return one that has the same tokens and grows by itself."""
        twin = type(self)(self.scope)
        twin.length, twin.kept, twin._hash = self.length, self.kept, self._hash.copy()
        return twin

    def extend(self, token_ids: np.ndarray | Many[int]) -> None:
        """Add tokens."""
        self._hash.update(np.asarray(token_ids, np.int32).tobytes())
        self.length += len(token_ids)

    @property
    def key(self) -> tuple[Hashable, bytes]:
        """What the tokens are found by."""
        return self.scope, self._hash.digest()


@dataclass(frozen=True, eq=False)
class _Entry:
    state: np.ndarray
    length: int

    @property
    def num_bytes(self) -> int:
        return self.state.nbytes + OVERHEAD_BYTES


class PrefixCache:
    """The states that were used last, as many as fit.

    Attributes:
        num_bytes: Taken by all entries.
        num_evicted: Entries that had to make room so far.
    """

    def __init__(self, max_bytes: int) -> None:
        """Begin with nothing.

        Args:
            max_bytes: What all entries may take; 0 keeps none.
        """
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Hashable, bytes], _Entry] = OrderedDict()
        # Of each scope, how many entries have which length.
        self._lengths: dict[Hashable, Counter[int]] = {}
        self.num_bytes = self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, scope: Hashable, token_ids: np.ndarray) -> tuple[Prefix, np.ndarray | None]:
        """Look for the longest beginning of some tokens whose state is known.

        Takes some 0.8 µs for each different length in the scope (measured; 5,000 of them are 4 ms).

        Args:
            scope: See `Prefix`.
            token_ids: int32 (tokens,).

        Returns:
            The beginning, of no tokens if there is none, and the state after it: float32 (S,), not to be written to.
        """
        longest, state, prefix = Prefix(scope), None, Prefix(scope)
        for length in sorted(self._lengths.get(scope, ())):
            if length > len(token_ids):
                break
            prefix.extend(token_ids[prefix.length : length])
            entry = self._entries.get(prefix.key)
            if entry is not None:
                longest, state = prefix.copy(), entry.state
        if state is not None:
            self._entries.move_to_end(longest.key)
            longest.kept = longest.length
        return longest, state

    def keep_now_and_then(self, prefix: Prefix, state: np.ndarray) -> None:
        """Keep the state of a text that goes on, if there is none from shortly before."""
        if prefix.length - prefix.kept >= (SPACING if prefix.length <= FAR else FAR):
            self.keep(prefix, state)

    def keep(self, prefix: Prefix, state: np.ndarray) -> None:
        """Keep the state after some tokens, in place of those that were not used for longest."""
        prefix.kept, key = prefix.length, prefix.key
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        # A copy: a row of a call's reply would keep the whole reply.
        entry = _Entry(state.copy(), prefix.length)
        if not prefix.length or entry.num_bytes > self._max_bytes:
            return
        self._entries[key] = entry
        self._lengths.setdefault(prefix.scope, Counter())[entry.length] += 1
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        (scope, _), entry = self._entries.popitem(last=False)
        self.num_bytes -= entry.num_bytes
        self.num_evicted += 1
        lengths = self._lengths[scope]
        lengths[entry.length] -= 1
        if not lengths[entry.length]:
            del lengths[entry.length]
        if not lengths:
            del self._lengths[scope]
