"""Distributions of lengths, characters and n-grams of a sample, against those of a sample of the training records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sostenuto._report.ngrams import MAX_ORDER, Aligned, Floats, Integers, align, jensen_shannon, ngrams, shown

MAX_BINS = 40
NUM_DIFFERENCES = 10  # n-grams listed for each order


def lengths(texts: Sequence[str]) -> Integers:
    return np.fromiter(map(len, texts), np.int64, len(texts))


def length_edges(samples: Sequence[Sequence[str]]) -> list[int]:
    """Return edges of at most 40 bins of lengths, of equal width; the last one is open, and has the longest 0.5%."""
    every = np.concatenate([lengths(sample) for sample in samples])
    low, high = int(every.min()), int(np.quantile(every, 0.995, method="higher"))
    width = -(-(high - low + 1) // MAX_BINS)
    return list(range(low, high + width + 1, width))


def length_report(texts: Sequence[str], edges: Sequence[int], training: Sequence[str] | None = None) -> dict[str, Any]:
    """Return statistics and the histogram of lengths and, with training records, the divergence from theirs."""
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
    """Count values by bin, the lower edge included; what is beyond the outer edges counts in the outer bins."""
    bins = np.searchsorted(np.asarray(edges[1:-1], dtype=np.float64), values, side="right")
    return np.bincount(bins, minlength=len(edges) - 1)


def ngram_report(texts: Sequence[str], training: Sequence[str]) -> list[dict[str, Any]]:
    """Return for each order the divergence from the training records, and the n-grams that contribute most to it."""
    return [_of_order(texts, training, order) for order in range(1, MAX_ORDER + 1)]


def _of_order(texts: Sequence[str], training: Sequence[str], order: int) -> dict[str, Any]:
    aligned = align(ngrams(texts, order).keys, ngrams(training, order).keys)
    is_unseen = (aligned.first > 0) & (aligned.second == 0)
    total = max(1, int(aligned.first.sum()))
    return {
        "order": order,
        "js_bits": aligned.divergence(),
        "unseen_share": float(aligned.first[is_unseen].sum() / total),
        "differences": _differences(aligned, order),
    }


def _differences(aligned: Aligned, order: int) -> list[dict[str, Any]]:
    own, real = (counts / max(1, counts.sum()) for counts in (aligned.first, aligned.second))
    middle = (own + real) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(shares > 0, shares * np.log2(shares / middle), 0.0) for shares in (own, real)]
    largest = np.argsort(-(parts[0] + parts[1]), kind="stable")[:NUM_DIFFERENCES]
    return [
        {"ngram": shown(int(aligned.keys[i]), order), "share": float(own[i]), "training_share": float(real[i])}
        for i in largest
        if own[i] != real[i]
    ]
