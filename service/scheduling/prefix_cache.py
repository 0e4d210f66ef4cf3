"""Prefix cache: states after token sequences that were read or generated before.

A recurrent state has the same size after ten tokens as after ten thousand, so one entry is one row of floats. And it is
the same to the bit however it came to be (`docs/architecture.md`), so no completion depends on what is found here.

A prefix is named by a chain of hashes, one for each block of `BLOCK` tokens and one for what is left behind the last
block, as vLLM names the blocks of its prefix cache. A lookup walks the blocks of a prompt, not the lengths that are
cached: 12,000 cached lengths made 64 lookups for prompts of 12,000 tokens hold the scheduler for 1.4 s (measured).

Used by the scheduler's thread alone, so nothing is locked; `block_hashes` is pure and runs on the request's thread.
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
# Tokens of a block.
BLOCK = 128
# Least distance in tokens between states cached during a prefill; beyond the first `FAR` tokens it is `FAR`. A prompt
# that shares a prefix has few tokens to read again, and a long one does not evict all others.
SPACING, FAR = BLOCK, 1024
# Hashes that one lookup computes at most, 1.3 µs each (measured): a prompt made to meet many entries that differ in
# their last tokens alone is a miss, and costs nobody else anything.
MAX_HASHES = 512

_ITEM_BYTES = np.dtype(np.int32).itemsize


def _hash(parent: bytes, tokens: bytes) -> bytes:
    # Of 128 bits no two are found to be equal, by chance or by trying.
    return hashlib.blake2b(tokens, digest_size=16, key=parent).digest()


def _root(scope: Hashable) -> bytes:
    return hashlib.blake2b(repr(scope).encode(), digest_size=16).digest()


def block_hashes(scope: Hashable, token_ids: np.ndarray) -> tuple[bytes, ...]:
    """Return the hash of a namespace, and of every whole block of some tokens behind it.

    Args:
        scope: See `Prefix`.
        token_ids: int32 (tokens,).
    """
    hashes, tokens = [_root(scope)], token_ids.tobytes()
    for start in range(0, len(token_ids) // BLOCK * BLOCK * _ITEM_BYTES, BLOCK * _ITEM_BYTES):
        hashes.append(_hash(hashes[-1], tokens[start : start + BLOCK * _ITEM_BYTES]))
    return tuple(hashes)


class Prefix:
    """Names the tokens that a state has read.

    Attributes:
        block: Hash of the namespace and all whole blocks so far.
        length: Tokens so far.
        kept: Of those, how many had been added when a state was last kept.
    """

    __slots__ = ("_tail", "block", "kept", "length")

    def __init__(self, scope: Hashable) -> None:
        """Begin with no tokens.

        Args:
            scope: Namespace: whose tokens they are, the model that reads them, and the state that it begins with.
                Prefixes of different namespaces never match. Its `repr` tells it from others.
        """
        self.block, self.length, self.kept = _root(scope), 0, 0
        self._tail = b""

    @classmethod
    def at(cls, block: bytes, num_blocks: int, tail: np.ndarray) -> Self:
        """Return the prefix of `num_blocks` blocks, whose hash is `block`, and the tokens of `tail`."""
        prefix = cls.__new__(cls)
        prefix.block, prefix._tail = block, tail.tobytes()
        prefix.length = prefix.kept = num_blocks * BLOCK + len(tail)
        return prefix

    def copy(self) -> Self:
        """Return one that has the same tokens and grows by itself."""
        twin = type(self).__new__(type(self))
        twin.block, twin.length, twin.kept, twin._tail = self.block, self.length, self.kept, self._tail
        return twin

    def extend(self, token_ids: np.ndarray | Many[int]) -> None:
        """Add tokens."""
        self.length += len(token_ids)
        tail, size = self._tail + np.asarray(token_ids, np.int32).tobytes(), BLOCK * _ITEM_BYTES
        while len(tail) >= size:
            self.block, tail = _hash(self.block, tail[:size]), tail[size:]
        self._tail = tail

    @property
    def key(self) -> bytes:
        """Hash of the namespace and all tokens."""
        return _hash(self.block, self._tail) if self._tail else self.block

    @property
    def tail_length(self) -> int:
        """Tokens behind the last whole block."""
        return len(self._tail) // _ITEM_BYTES


@dataclass(frozen=True, eq=False)
class _Entry:
    state: np.ndarray
    block: bytes
    tail_length: int

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
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        # Of each block, how many entries there are with how many tokens behind it.
        self._tails: dict[bytes, Counter[int]] = {}
        self.num_bytes = self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, blocks: Many[bytes], token_ids: np.ndarray) -> tuple[Prefix, np.ndarray] | None:
        """Look up the longest cached prefix of some tokens.

        Args:
            blocks: `block_hashes` of the tokens, or of more that begin with them.
            token_ids: int32 (tokens,).

        Returns:
            The prefix and the state after it, float32 (S,), not to be written to; None: a miss.
        """
        num_hashes = 0
        for number in range(min(len(blocks) - 1, len(token_ids) // BLOCK), -1, -1):
            tails = self._tails.get(blocks[number])
            if tails is None:
                continue
            rest = token_ids[number * BLOCK : (number + 1) * BLOCK]
            for length in sorted((length for length in tails if length <= len(rest)), reverse=True):
                prefix = Prefix.at(blocks[number], number, rest[:length])
                key = prefix.key
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return prefix, self._entries[key].state
                num_hashes += 1
                if num_hashes == MAX_HASHES:
                    return None
        return None

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
        entry = _Entry(state.copy(), prefix.block, prefix.tail_length)
        if not prefix.length or entry.num_bytes > self._max_bytes:
            return
        self._entries[key] = entry
        self._tails.setdefault(entry.block, Counter())[entry.tail_length] += 1
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.num_bytes -= entry.num_bytes
        self.num_evicted += 1
        tails = self._tails[entry.block]
        tails[entry.tail_length] -= 1
        if not tails[entry.tail_length]:
            del tails[entry.tail_length]
        if not tails:
            del self._tails[entry.block]
