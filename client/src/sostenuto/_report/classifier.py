"""A classifier two-sample test: how well a small model tells generated records from real ones.

Logistic regression on the n-grams of a record, its length and, for a table, its values and pairs of values. The area
under the ROC curve (AUC) on records that it was not trained on is the probability that it scores a random generated
record above a random real one (Lopez-Paz and Oquab 2017). The labels are balanced, so 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sostenuto._report.columns import MIN_NUMBERS, numbers_of
from sostenuto._report.distributions import MAX_ORDER, Floats, Integers, ngrams, shown
from sostenuto._report.records import Records

MAX_RECORDS = 5000  # of each kind
MIN_RECORDS = 20
NUM_FOLDS = 5
# A feature of fewer records than this cannot be learned.
MIN_FREQUENCY = 3
# Of accelerated gradient descent; rows have norm 1, so 4 is the inverse of the gradient's Lipschitz constant.
NUM_STEPS, STEP, L2 = 100, 4.0, 1e-4
NUM_SIGNS = 12
MAX_CHARACTERS = 500  # of a record that are read
MAX_PAIRED_COLUMNS = 10


@dataclass(frozen=True)
class Features:
    """A sparse binary matrix: the features of each record, whose values are scaled to rows of norm 1.

    Attributes:
        ids: int64 (present,). Features, record by record.
        owners: int64 (present,). The record of each.
        names: list of str. What each feature is.
        scale: float64 (records,).
    """

    ids: Integers
    owners: Integers
    names: list[str]
    scale: Floats

    def scores(self, weights: Floats) -> Floats:
        """Return the products of each row with weights, (records,)."""
        return self.scale * _sums(self.owners, weights[self.ids], len(self.scale))

    def transposed(self, values: Floats) -> Floats:
        """Return the products of each column with values of the rows, (features,)."""
        return _sums(self.ids, (self.scale * values)[self.owners], len(self.names))


def _sums(places: Integers, values: Floats, size: int) -> Floats:
    return np.bincount(places, weights=values, minlength=size).astype(np.float64)


def classifier_report(
    generated: Records, real: Records, against: str, seed: int, advance: Callable[[float], object]
) -> dict[str, Any] | None:
    """Return the AUC by cross-validation and the features that give generated records away; None below 20 of a kind.

    Both are distinct records; equal numbers of each are used. `against` names the real ones in the report.
    """
    size = min(len(generated), len(real), MAX_RECORDS)
    if size < MIN_RECORDS:
        return None
    both = [records.sample(size, seed) for records in (generated, real)]
    features = _features(both)
    labels = np.repeat([1.0, 0.0], size)
    # Equal texts share a fold: a copy in the training folds, with the other label, would be anti-predicted.
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(text, len(numbers)) for records in both for text in records.texts]
    folds = np.random.default_rng(seed).permutation(len(numbers))[groups] % NUM_FOLDS
    areas = []
    for fold in range(NUM_FOLDS):
        is_tested = folds == fold
        weights = _fit(features, labels, ~is_tested)
        areas.append(area_under_curve(features.scores(weights)[is_tested], labels[is_tested]))
        advance((fold + 1) / (NUM_FOLDS + 1))
    signs = _signs(features, _fit(features, labels, np.ones(2 * size, bool)), labels)
    advance(1.0)
    spread = float(np.std(areas, ddof=1))
    return {
        "against": against,
        "records": size,
        "auc": float(np.mean(areas)),
        "std": spread,
        "folds": areas,
        "signs": signs,
    }


def area_under_curve(scores: Floats, labels: Floats) -> float:
    """Return the probability that a positive has a higher score than a negative, ties counted half (Mann-Whitney)."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    num_positive = labels.sum()
    num_negative = len(labels) - num_positive
    if not num_positive or not num_negative:
        return 0.5
    return float((ranks[labels > 0].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def _fit(features: Features, labels: Floats, is_used: NDArray[np.bool_]) -> Floats:
    """Return the weights of a logistic regression, by Nesterov's accelerated gradient descent.

    There is no intercept: there are as many records of each kind.
    """
    weights, ahead = np.zeros(len(features.names)), np.zeros(len(features.names))
    count = is_used.sum()
    for step in range(NUM_STEPS):
        residuals = np.where(is_used, 1 / (1 + np.exp(-features.scores(ahead))) - labels, 0.0)
        new = ahead - STEP * (features.transposed(residuals) / count + L2 * ahead)
        ahead = new + step / (step + 3) * (new - weights)
        weights = new
    return weights


def _signs(features: Features, weights: Floats, labels: Floats) -> list[dict[str, Any]]:
    """Return the features of the largest weights, with the share of records of each kind that have them."""
    halves = [np.bincount(features.ids[labels[features.owners] == kind], minlength=len(weights)) for kind in (1.0, 0.0)]
    size = len(labels) / 2
    largest = np.argsort(-np.abs(weights), kind="stable")[:NUM_SIGNS]
    return [
        {"feature": features.names[i], "share": float(halves[0][i] / size), "real_share": float(halves[1][i] / size)}
        for i in largest
    ]


def _features(both: Sequence[Records]) -> Features:
    texts = [text[:MAX_CHARACTERS] for records in both for text in records.texts]
    parts: list[tuple[Integers, Integers, list[str]]] = []
    for order in range(1, MAX_ORDER + 1):
        keys, owners = ngrams(texts, order)
        kinds, ids = np.unique(keys, return_inverse=True)
        parts.append((ids, owners, [shown(int(key), order) for key in kinds]))
    parts.append(_named([[f"length {len(text)}"] for text in texts]))
    if both[0].columns:
        parts.append(_named(_cells(both)))
    return _joined(parts, len(texts))


def _joined(parts: Sequence[tuple[Integers, Integers, list[str]]], num_records: int) -> Features:
    """Join features of several kinds, without rare ones and repetitions within a record."""
    offsets = np.cumsum([0, *(len(names) for _, _, names in parts)])
    ids = np.concatenate([part[0] + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
    owners = np.concatenate([part[1] for part in parts])
    present = np.unique(owners * offsets[-1] + ids)
    owners, ids = np.divmod(present, max(1, offsets[-1]))
    is_kept = np.bincount(ids, minlength=offsets[-1]) >= MIN_FREQUENCY
    new = np.cumsum(is_kept) - 1
    names = [name for name, kept in zip([n for part in parts for n in part[2]], is_kept, strict=True) if kept]
    ids, owners = new[ids[is_kept[ids]]], owners[is_kept[ids]]
    numbers = np.bincount(owners, minlength=num_records)
    return Features(ids, owners, names, 1 / np.sqrt(np.maximum(1, numbers)))


def _named(features: Sequence[Sequence[str]]) -> tuple[Integers, Integers, list[str]]:
    numbers: dict[str, int] = {}
    ids = [numbers.setdefault(name, len(numbers)) for each in features for name in each]
    owners = np.repeat(np.arange(len(features)), [len(each) for each in features])
    return np.array(ids, np.int64), owners, list(numbers)


def _cells(both: Sequence[Records]) -> list[list[str]]:
    """Return for each record its values by column, numbers in ten bins, and the pairs of these."""
    columns = both[0].columns
    rows = [row for records in both for row in records.rows]
    binned = [_binned(name, [row[place] if row else None for row in rows]) for place, name in enumerate(columns)]
    found = []
    for index, row in enumerate(rows):
        cells = [] if row is None else [column[index] for column in binned]
        pairs = combinations(cells[:MAX_PAIRED_COLUMNS], 2)
        found.append([*cells, *(f"{first}, {second}" for first, second in pairs)])
    return found


def _binned(name: str, values: Sequence[str | None]) -> list[str]:
    numbers = numbers_of(values)
    present = numbers[~np.isnan(numbers)]
    if len(present) < MIN_NUMBERS * max(1, sum(value is not None for value in values)):
        return [f"{name} = {value}" for value in values]
    edges = np.unique(np.quantile(present, np.linspace(0.1, 0.9, 9)))
    places = np.searchsorted(edges, numbers, side="right")
    ends = ["-∞", *(f"{edge:g}" for edge in edges), "∞"]
    return [
        f"{name} = {value}" if np.isnan(number) else f"{name} in [{ends[place]}, {ends[place + 1]})"
        for value, number, place in zip(values, numbers, places, strict=True)
    ]
