"""Distributions of lengths, characters and n-grams of a sample, against those of a sample of the training records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# A code point has 21 bits, so three fit into an integer of 63.
BITS, MAX_ORDER = 21, 3
# Control characters that mark the beginning and the end of a record, and how they are shown.
START, END = "\x02", "\x03"
SHOWN = {ord(START): "⟦", ord(END): "⟧"}

MAX_BINS = 40
NUM_DIFFERENCES = 10  # n-grams listed for each order


def lengths(texts: Sequence[str]) -> Integers:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def length_edges(samples: Sequence[Sequence[str]]) -> list[int]:
    """Return edges of at most 40 length bins of equal width; the last one is open, with the longest 0.5%."""
    every = np.concatenate([lengths(sample) for sample in samples])
    low, high = int(every.min()), int(np.quantile(every, 0.995, method="higher"))
    width = -(-(high - low + 1) // MAX_BINS)
    return list(range(low, high + width + 1, width))


def length_report(texts: Sequence[str], edges: Sequence[int], training: Sequence[str] | None = None) -> dict[str, Any]:
    """Return statistics and the histogram of lengths and, with training records, the divergence from those."""
    own = histogram(lengths(texts), edges)
    found = {**moments(lengths(texts)), "counts": own.tolist()}
    if training is not None:
        found["js_bits"] = jensen_shannon(own, histogram(lengths(training), edges))
    return found


def moments(values: Integers | Floats) -> dict[str, float]:
    """Return mean, standard deviation, minimum, maximum and quantiles of values, of which there is one at least."""
    quantiles = {name: float(np.quantile(values, q)) for name, q in (("p5", 0.05), ("median", 0.5), ("p95", 0.95))}
    extremes = {"min": float(values.min()), "max": float(values.max())}
    return {"mean": float(values.mean()), "std": float(values.std()), **extremes, **quantiles}


def histogram(values: Integers | Floats, edges: Sequence[float]) -> Integers:
    """Count values by bin, including the lower edge; values beyond the outer edges count in the outer bins."""
    bins = np.searchsorted(np.asarray(edges[1:-1], dtype=np.float64), values, side="right")
    return np.bincount(bins, minlength=len(edges) - 1)


def ngram_report(texts: Sequence[str], training: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each order the divergence from the training records, and the n-grams that contribute most to it."""
    return [_of_order(texts, training, order) for order in range(1, MAX_ORDER + 1)]


def _of_order(texts: Sequence[str], training: Sequence[str], order: int) -> dict[str, Any]:
    keys, *counts = align(ngrams(texts, order)[0], ngrams(training, order)[0])
    is_unseen = (counts[0] > 0) & (counts[1] == 0)
    return {
        "order": order,
        "js_bits": jensen_shannon(*counts),
        "unseen_share": float(counts[0][is_unseen].sum() / max(1, counts[0].sum())),
        "differences": _differences(keys, counts, order),
    }


def _differences(keys: Integers, counts: Sequence[Integers], order: int) -> list[dict[str, Any]]:
    own, real = (each / max(1, each.sum()) for each in counts)
    middle = (own + real) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(shares > 0, shares * np.log2(shares / middle), 0.0) for shares in (own, real)]
    largest = np.argsort(-(parts[0] + parts[1]), kind="stable")[:NUM_DIFFERENCES]
    return [
        {"ngram": shown(int(keys[i]), order), "share": float(own[i]), "training_share": float(real[i])}
        for i in largest
        if own[i] != real[i]
    ]


def ngrams(texts: Sequence[str], order: int) -> tuple[Integers, Integers]:
    """Return the n-grams of texts, 1 ≤ order ≤ 3; those of two and more include marks of beginning and end.

    Returns:
        keys: int64 (occurrences,). An n-gram: its code points, the first one in the lowest 21 bits.
        owners: int64 (occurrences,). Index of the text in which it occurs; ascending.
    """
    marked = [START + text + END for text in texts] if order > 1 else texts
    # A lone half of a surrogate pair, which JSON can have, counts as a character.
    joined = "".join(marked).encode("utf-32-le", "surrogatepass")
    characters = np.frombuffer(joined, np.uint32).astype(np.int64)
    owners = np.repeat(np.arange(len(marked)), lengths(marked))
    size = max(0, len(characters) - order + 1)
    keys = np.zeros(size, np.int64)
    for place in range(order):
        keys |= characters[place : place + size] << (BITS * place)
    is_within = owners[:size] == owners[order - 1 :]
    return keys[is_within], owners[:size][is_within]


def shown(key: int, order: int) -> str:
    """Return an n-gram as text, with visible marks of beginning and end."""
    codes = [key >> (BITS * place) & (2**BITS - 1) for place in range(order)]
    return "".join(SHOWN.get(code) or chr(code) for code in codes)


def align(first: Integers, second: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the keys of two samples, and how often each key is in the first and in the second, int64 (kinds,) each."""
    keys, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    size = len(keys)
    own, others = places[: len(first)], places[len(first) :]
    return keys, np.bincount(own, minlength=size), np.bincount(others, minlength=size)


def jensen_shannon(first: NDArray[np.int64], second: NDArray[np.int64]) -> float | None:
    """Return the Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint ones.

    With m = (p + q) / 2 it is (KL(p‖m) + KL(q‖m)) / 2 = H(m) - (H(p) + H(q)) / 2 (Lin 1991).

    Both are counts of the same kinds, (kinds,). None if one has no counts.
    """
    if not first.sum() or not second.sum():
        return None
    p, q = first / first.sum(), second / second.sum()
    divergence = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return float(min(1.0, max(0.0, divergence)))


def _entropy(shares: Floats) -> float:
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum())
