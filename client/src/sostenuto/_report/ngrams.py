"""N-grams of characters as integers, their counts, and the Jensen-Shannon divergence between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A code point has 21 bits, so three fit into an integer of 63.
BITS, MAX_ORDER = 21, 3
# Control characters that mark the beginning and the end of a record, and how they are shown.
START, END = "\x02", "\x03"
SHOWN = {ord(START): "⟦", ord(END): "⟧"}


@dataclass(frozen=True)
class Occurrences:
    """The n-grams of some texts.

    Attributes:
        keys: int64 (occurrences,). An n-gram: its code points, the first one in the lowest 21 bits.
        records: int64 (occurrences,). Index of the text in which it occurs; ascending.
    """

    keys: Integers
    records: Integers


def ngrams(texts: Sequence[str], order: int) -> Occurrences:
    """Return the n-grams of texts, 1 ≤ order ≤ 3; those of two and more include marks of beginning and end."""
    marked = [START + text + END for text in texts] if order > 1 else texts
    lengths = np.fromiter(map(len, marked), np.int64, len(marked))
    # A lone half of a surrogate pair, which JSON can have, counts as a character.
    joined = "".join(marked).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, np.uint32).astype(np.int64)
    owners = np.repeat(np.arange(len(marked)), lengths)
    size = max(0, len(characters) - order + 1)
    keys = np.zeros(size, np.int64)
    for place in range(order):
        keys |= characters[place : place + size] << (BITS * place)
    is_within = owners[:size] == owners[order - 1 :]
    return Occurrences(keys[is_within], owners[:size][is_within])


def shown(key: int, order: int) -> str:
    """Return an n-gram as text, with visible marks of beginning and end."""
    return "".join(shown_character(key >> (BITS * place) & (2**BITS - 1)) for place in range(order))


def shown_character(code: int) -> str:
    """Return a character, or the visible sign of a mark."""
    return SHOWN.get(code) or chr(code)


@dataclass(frozen=True)
class Aligned:
    """Counts of the same things in two samples: keys int64 (kinds,), counts int64 (kinds,) of each."""

    keys: Integers
    first: Integers
    second: Integers

    def divergence(self) -> float | None:
        """Return the Jensen-Shannon divergence of the two distributions in bits; see `jensen_shannon`."""
        return jensen_shannon(self.first, self.second)


def align(first: Integers, second: Integers) -> Aligned:
    """Count the keys of two samples."""
    keys, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    size = len(keys)
    counts = [np.bincount(part, minlength=size) for part in (places[: len(first)], places[len(first) :])]
    return Aligned(keys, *counts)


def jensen_shannon(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    """Return the Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint ones.

    With m = (p + q) / 2 it is (KL(p‖m) + KL(q‖m)) / 2 = H(m) - (H(p) + H(q)) / 2 (Lin 1991).

    Args:
        first: Counts, (kinds,).
        second: Counts of the same kinds.

    Returns:
        None if one has no counts.
    """
    if not first.sum() or not second.sum():
        return None
    p, q = first / first.sum(), second / second.sum()
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(min(1.0, max(0.0, divergence)))


def _entropy(shares: Floats) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())
