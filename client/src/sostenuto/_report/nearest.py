"""The nearest training record of each record of a sample, by normalized edit distance."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

MAX_RECORDS = 5000  # whose nearest training record is searched
MIN_RECORDS = 200  # minimum to search; beyond the budget, among fewer training records
# CPU time per pair on an Intel Xeon (Sapphire Rapids class): with vector instructions, and per character and word of 64
# for longer texts.
SHORT_CHARACTERS, SHORT_NS, WORD_NS = 64, 33.0, 4.5
MAX_CHARACTERS = 500  # of a record that are compared
NUM_PAIRS, NUM_BINS = 10, 20
_BATCH_PAIRS = 4_000_000  # a matrix of 16 MB


def sizes(texts: Sequence[str], num_training: int, budget_s: float) -> tuple[int, int]:
    """Return the sample sizes of records and of training records for a search within a CPU time."""
    length = min(MAX_CHARACTERS, float(np.mean([len(text) for text in texts[:MAX_RECORDS]]))) if texts else 0.0
    words = -(-length // SHORT_CHARACTERS)
    # A mean of 32 has few longer than 64.
    pair_ns = SHORT_NS if length <= SHORT_CHARACTERS / 2 else WORD_NS * length * words
    num_pairs = 1e9 * budget_s / pair_ns
    num_searched = min(len(texts), MAX_RECORDS, max(MIN_RECORDS, int(num_pairs / max(1, num_training))))
    return num_searched, min(num_training, max(1, int(num_pairs / max(1, num_searched))))


def nearest_report(
    texts: Sequence[str], training: Sequence[str], near: float, num_workers: int, advance: Callable[[float], object]
) -> dict[str, Any]:
    """Return how far records are from the nearest training record.

    The distance is Levenshtein's, divided by the number of characters of the longer text: 0 for equal texts, 1 if
    nothing is shared.

    None of `texts` is in the training file, which has at least one record. Those at a distance of at most `near` are
    near copies.
    """
    queries, choices = [text[:MAX_CHARACTERS] for text in texts], [text[:MAX_CHARACTERS] for text in training]
    distances, places = np.ones(len(queries)), np.zeros(len(queries), np.int64)
    batch = max(1, _BATCH_PAIRS // len(choices))
    for start in range(0, len(queries), batch):
        part = slice(start, start + batch)
        matrix = process.cdist(
            queries[part], choices, scorer=Levenshtein.normalized_distance, dtype=np.float32, workers=num_workers
        )
        places[part], distances[part] = matrix.argmin(axis=1), matrix.min(axis=1)
        advance(min(1.0, (start + batch) / len(queries)))
    return {
        "searched": len(texts),
        "among": len(training),
        "near_distance": near,
        # Both are rounded to float32's precision, in which they were compared.
        "near_share": float((distances <= np.float32(near)).mean()) if len(texts) else None,
        "mean": float(distances.mean()) if len(texts) else None,
        "median": float(np.median(distances)) if len(texts) else None,
        "counts": np.histogram(distances, bins=NUM_BINS, range=(0, 1))[0].tolist(),
        "pairs": [
            _pair(texts[i], training[places[i]])
            for i in heapq.nsmallest(NUM_PAIRS, range(len(texts)), key=distances.__getitem__)
        ],
    }


def _pair(text: str, training: str) -> dict[str, Any]:
    edits = Levenshtein.distance(text[:MAX_CHARACTERS], training[:MAX_CHARACTERS])
    longest = max(len(text[:MAX_CHARACTERS]), len(training[:MAX_CHARACTERS]), 1)
    return {"record": text, "training": training, "edits": edits, "distance": edits / longest}
