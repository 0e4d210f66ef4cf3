"""Prefix cache: model states after token prefixes that were prefilled or generated before.

A recurrent state has the same size after ten tokens as after ten thousand, so one entry is one vector of floats. It is
bit-exact however it was computed (`docs/architecture.md`), so no completion depends on cache hits.

The key of a prefix is a hash chain: one hash per block of `BLOCK` tokens and one for the tail after the last block, as
vLLM names the blocks of its prefix cache. A lookup walks the blocks of a prompt, and hashes at most `BLOCK` - 1 tails
after each block that has any, however many entries there are: 20 to 40 µs with 5,000 or 20,000 entries (measured).

Used by the scheduler's thread alone, so it needs no lock. `block_hashes` is pure and runs on the request's thread.
"""

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

# Bytes of an entry beside its floats: key, counts, objects (measured with tracemalloc: 570 to 630).
OVERHEAD_BYTES = 640
# Tokens of a block. With 128, a lookup hashed 250 tails and took 110 µs; with 16, a prompt has twice the block hashes.
BLOCK = 32
# Minimum distance in tokens between states cached during a prefill; beyond the first `FAR` tokens it is `FAR`. So
# prompts that share a prefix have few tokens to prefill again, and a long one does not evict all other entries.
SPACING, FAR = 128, 1024
# Maximum hashes that one lookup computes, 0.7 µs each (measured). A prompt crafted to match many entries that differ
# only in their tails becomes a miss, and delays no other request.
MAX_HASHES = 512

_ITEM_BYTES = np.dtype(np.int32).itemsize


def _hash(parent: bytes, tokens: bytes) -> bytes:
    # 256 bits: collisions are infeasible, by chance or by search.
    return hashlib.blake2b(tokens, digest_size=32, key=parent).digest()


def _key(block: bytes, tail: bytes) -> bytes:
    return _hash(block, tail) if tail else block


def block_hashes(namespace: Hashable, token_ids: np.ndarray) -> tuple[bytes, ...]:
    """Return the hash chain of token ids, int32 (tokens,): that of the namespace, then one per whole block."""
    hashes, tokens = [hashlib.blake2b(repr(namespace).encode(), digest_size=32).digest()], token_ids.tobytes()
    for start in range(0, len(token_ids) // BLOCK * BLOCK * _ITEM_BYTES, BLOCK * _ITEM_BYTES):
        hashes.append(_hash(hashes[-1], tokens[start : start + BLOCK * _ITEM_BYTES]))
    return tuple(hashes)


@dataclass(slots=True)
class Prefix:
    """The tokens behind a state, as a hash chain.

    Its namespace is tenant, model version, fingerprint and initial state. Prefixes of different namespaces never
    match; the `repr` of a namespace must be unique.
    """

    block: bytes  # hash of the namespace and all whole blocks
    tail: bytes = b""  # the tokens after the last whole block, as the bytes of an int32 array
    length: int = 0  # number of tokens
    kept: int = 0  # `length` when a state was last cached

    def extend(self, token_ids: np.ndarray | Sequence[int]) -> None:
        self.length += len(token_ids)
        tail, size = self.tail + np.asarray(token_ids, np.int32).tobytes(), BLOCK * _ITEM_BYTES
        while len(tail) >= size:
            self.block, tail = _hash(self.block, tail[:size]), tail[size:]
        self.tail = tail

    @property
    def key(self) -> bytes:
        """Hash of the namespace and all tokens."""
        return _key(self.block, self.tail)


class PrefixCache:
    """An LRU cache of states, with a memory limit; 0 disables it."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # By key: the state, and its prefix's block hash and tail size in bytes.
        self._entries: OrderedDict[bytes, tuple[np.ndarray, bytes, int]] = OrderedDict()
        # By block hash: number of entries per size of their tail.
        self._tails: dict[bytes, Counter[int]] = {}
        self.num_bytes = self.num_evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, blocks: Sequence[bytes], token_ids: np.ndarray) -> tuple[Prefix, np.ndarray] | None:
        """Look up the longest cached prefix of some tokens, int32 (tokens,), or None.

        `blocks` are the `block_hashes` of the tokens, or of a longer sequence that starts with them. The state after
        the prefix, float32 (S,), is read-only by convention.
        """
        num_hashes = 0
        for number in range(min(len(blocks) - 1, len(token_ids) // BLOCK), -1, -1):
            tails = self._tails.get(blocks[number])
            if tails is None:
                continue
            tokens = token_ids[number * BLOCK : (number + 1) * BLOCK].tobytes()
            for size in sorted((size for size in tails if size <= len(tokens)), reverse=True):
                key = _key(blocks[number], tokens[:size])
                if key in self._entries:
                    self._entries.move_to_end(key)
                    length = number * BLOCK + size // _ITEM_BYTES
                    return Prefix(blocks[number], tokens[:size], length, kept=length), self._entries[key][0]
                num_hashes += 1
                if num_hashes == MAX_HASHES:
                    return None
        return None

    def keep_if_due(self, prefix: Prefix, state: np.ndarray) -> None:
        """Cache the state of a sequence in prefill, unless one was cached fewer than `SPACING` or `FAR` tokens ago."""
        if prefix.length - prefix.kept >= (SPACING if prefix.length <= FAR else FAR):
            self.keep(prefix, state)

    def keep(self, prefix: Prefix, state: np.ndarray) -> None:
        """Cache the state after a prefix; evict the least recently used entries if memory is short."""
        prefix.kept, key = prefix.length, prefix.key
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        num_bytes, block, tail_size = state.nbytes + OVERHEAD_BYTES, prefix.block, len(prefix.tail)
        if not prefix.length or num_bytes > self._max_bytes:
            return
        # A copy: a view would keep all outputs of its call alive.
        self._entries[key] = state.copy(), block, tail_size
        self._tails.setdefault(block, Counter())[tail_size] += 1
        self.num_bytes += num_bytes
        while self.num_bytes > self._max_bytes:
            self._evict()

    def _evict(self) -> None:
        _, (state, block, tail_size) = self._entries.popitem(last=False)
        self.num_bytes -= state.nbytes + OVERHEAD_BYTES
        self.num_evicted += 1
        tails = self._tails[block]
        tails[tail_size] -= 1
        if not tails[tail_size]:
            del tails[tail_size]
        if not tails:
            del self._tails[block]
