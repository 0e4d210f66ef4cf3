"""Columns of a table: the distribution of each, and the correlations between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from sostenuto._report.display import NUM_VALUES
from sostenuto._report.distributions import Floats, Integers, align, histogram, jensen_shannon, moments, ngrams
from sostenuto._report.records import Records

# A column is numeric if this share of its training values are numbers.
MIN_NUMBERS = 0.95
# A column is categorical if it has at most this many distinct training values, or each occurs ten times on average.
MAX_CATEGORIES, MAX_REPEATED_CATEGORIES, MIN_REPEATS = 50, 1000, 10
MAX_COLUMNS = 30  # that are reported
NUM_BINS = 20
MAX_NUMBER = 1e150  # larger ones do not count as numbers: the sum of their squares could overflow a float
NUMBER, CATEGORY, TEXT = "number", "category", "text"


def numbers_of(values: Sequence[str | None]) -> Floats:
    """Return the numbers of a column, and NaN for any other value."""
    return np.array([_number(value) for value in values], np.float64)


def kind_of(values: Sequence[str | None]) -> str:
    """Return whether a column of training values has numbers, categories or texts."""
    present = [value for value in values if value is not None]
    if present and np.mean(~np.isnan(numbers_of(present))) >= MIN_NUMBERS:
        return NUMBER
    distinct = len(set(present))
    few = distinct <= MAX_CATEGORIES or distinct <= min(MAX_REPEATED_CATEGORIES, len(present) / MIN_REPEATS)
    return CATEGORY if few else TEXT


@dataclass(frozen=True)
class Column:
    """A column of the training records: what the columns of the others are compared with."""

    name: str
    kind: str
    known: set[str | None]  # its values
    edges: list[float]  # of the bins of numbers

    @classmethod
    def of(cls, name: str, values: list[str | None]) -> Column:
        kind = kind_of(values)
        return cls(name, kind, set(values), _edges(numbers_of(values)) if kind == NUMBER else [])


def columns_of(training: Records) -> list[Column]:
    """Return the columns to report."""
    return [Column.of(name, training.values(place)) for place, name in enumerate(training.columns[:MAX_COLUMNS])]


def column_report(own: Records, sample: Records, columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Return the distribution of each column beside that of a sample of the training records."""
    return [_distribution(own.values(i), sample.values(i), column) for i, column in enumerate(columns)]


def _distribution(own: list[str | None], training: list[str | None], column: Column) -> dict[str, Any]:
    missing = [float(np.mean([value is None for value in values])) if values else None for values in (own, training)]
    mine, theirs = ([value for value in values if value is not None] for values in (own, training))
    unseen = float(np.mean([value not in column.known for value in mine])) if mine else None
    facts = {"name": column.name, "kind": column.kind, "missing_share": missing[0]}
    facts |= {"training_missing_share": missing[1], "unseen_share": unseen}
    if column.kind == NUMBER:
        return {**facts, **_numbers(mine, theirs, column.edges)}
    return {**facts, **(_categories if column.kind == CATEGORY else _texts)(mine, theirs)}


def _numbers(own: list[str], training: list[str], edges: list[float]) -> dict[str, Any]:
    found = [numbers_of(values) for values in (own, training)]
    finite = [values[~np.isnan(values)] for values in found]
    counts = [histogram(values, edges) for values in finite]
    return {
        "not_numbers_share": float(np.isnan(found[0]).mean()) if own else None,
        "edges": edges,
        "counts": counts[0].tolist(),
        "training_counts": counts[1].tolist(),
        "js_bits": jensen_shannon(*counts),
        "moments": moments(finite[0]) if len(finite[0]) else None,
        "training_moments": moments(finite[1]) if len(finite[1]) else None,
    }


def _edges(values: Floats) -> list[float]:
    """Return edges of bins from the first to the 99th percentile; few whole numbers get a bin each."""
    values = values[~np.isnan(values)]
    low, high = float(np.quantile(values, 0.01)), float(np.quantile(values, 0.99))
    if (values == np.round(values)).all() and high - low < NUM_BINS:
        return [float(edge) for edge in range(math.floor(low), math.ceil(high) + 2)]
    return [float(edge) for edge in np.linspace(low, high if high > low else low + 1, NUM_BINS + 1)]


def _categories(own: list[str], training: list[str]) -> dict[str, Any]:
    counts = Counter(own), Counter(training)
    names = [name for name, _ in (counts[0] + counts[1]).most_common()]
    both = [np.array([counted[name] for name in names], np.int64) for counted in counts]
    # Those of training come first, in the same order for each set.
    known, unseen = sorted(counts[1], key=lambda name: (-counts[1][name], name)), counts[0].keys() - counts[1].keys()
    shown = [*known, *sorted(unseen, key=lambda name: (-counts[0][name], name))][:NUM_VALUES]
    values = [
        {
            "value": name,
            "share": counts[0][name] / len(own) if own else 0.0,
            "training_share": counts[1][name] / len(training) if training else 0.0,
        }
        for name in shown
    ]
    return {"js_bits": jensen_shannon(*both), "values": values, "distinct": len(counts[0])}


def _texts(own: list[str], training: list[str]) -> dict[str, Any]:
    _, *counts = align(ngrams(own, 1)[0], ngrams(training, 1)[0])
    means = [float(np.mean([len(text) for text in texts])) if texts else None for texts in (own, training)]
    return {"js_bits": jensen_shannon(*counts), "mean_length": means[0], "training_mean_length": means[1]}


def correlation_report(own: Records, sample: Records, columns: Sequence[Column]) -> dict[str, Any] | None:
    """Return the correlation of each pair of columns beside that in a sample of the training records.

    None if there are no pairs.
    Two columns of numbers: Pearson's r; two of categories: Cramér's V; one of each: the correlation ratio η.
    """
    kinds = {place: column.kind for place, column in enumerate(columns)}
    pairs: list[dict[str, Any]] = []
    for first, second in combinations([place for place, kind in kinds.items() if kind != TEXT], 2):
        measured = [_correlation(records, first, second, kinds) for records in (own, sample)]
        names = {"columns": [columns[first].name, columns[second].name]}
        measure = _measure(kinds[first], kinds[second])
        pairs.append({**names, "measure": measure, "value": measured[0], "training_value": measured[1]})
    differences = [
        abs(pair["value"] - pair["training_value"])
        for pair in pairs
        if pair["value"] is not None and pair["training_value"] is not None
    ]
    if not pairs:
        return None
    return {"mean_difference": float(np.mean(differences)) if differences else None, "pairs": pairs}


def _measure(first: str, second: str) -> str:
    if first == second:
        return "pearson" if first == NUMBER else "cramers_v"
    return "correlation_ratio"


def _correlation(records: Records, first: int, second: int, kinds: dict[int, str]) -> float | None:
    rows = [(row[first], row[second]) for row in records.rows if row is not None]
    present = [(a, b) for a, b in rows if a is not None and b is not None]
    columns = [[pair[0] for pair in present], [pair[1] for pair in present]]
    if kinds[first] != NUMBER and kinds[second] == NUMBER:
        first, second, columns = second, first, columns[::-1]
    if kinds[first] != NUMBER:
        return cramers_v(*(_codes(column) for column in columns))
    numbers = numbers_of(columns[0])
    if kinds[second] != NUMBER:
        is_number = ~np.isnan(numbers)
        return correlation_ratio(numbers[is_number], _codes(columns[1])[is_number])
    others = numbers_of(columns[1])
    is_number = ~np.isnan(numbers) & ~np.isnan(others)
    return pearson(numbers[is_number], others[is_number])


def _codes(values: Sequence[str]) -> Integers:
    """Number the different values."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def _varies(values: Floats) -> bool:
    """Return whether values vary, and their squares are not too small for a float."""
    return len(values) > 1 and bool(np.ptp(values) and values.std())


def pearson(first: Floats, second: Floats) -> float | None:
    """Return Pearson's correlation coefficient; None if a column is constant."""
    if not _varies(first) or not _varies(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def cramers_v(first: Integers, second: Integers) -> float | None:
    """Return Cramér's V, √(χ² / n / (min(rows, columns) - 1)), from 0 to 1; None if a column is constant."""
    rows, columns = np.bincount(first), np.bincount(second)
    least = min(len(rows), len(columns))
    if least < 2:
        return None
    # χ² / n = Σ count² / (row · column) - 1, over the pairs that occur: the whole table of two columns of mostly
    # different values has as many cells as records squared.
    pairs, counts = np.unique(first * len(columns) + second, return_counts=True)
    share = (counts**2 / (rows[pairs // len(columns)] * columns[pairs % len(columns)])).sum() - 1
    return float(np.sqrt(max(0.0, share) / (least - 1)))


def correlation_ratio(numbers: Floats, groups: Integers) -> float | None:
    """Return η, the root of the share of a column's variance that lies between groups; None if one is constant."""
    if not _varies(numbers) or groups.min() == groups.max():
        return None
    sizes = np.bincount(groups)
    means = np.bincount(groups, weights=numbers) / np.maximum(1, sizes)
    between = (sizes * (means - numbers.mean()) ** 2).sum()
    return float(np.sqrt(between / ((numbers - numbers.mean()) ** 2).sum()))


def _number(value: str | None) -> float:
    if not value or "_" in value:  # Python reads 2024_05 as 202405
        return math.nan
    try:
        number = float(value)
    except ValueError:
        return math.nan
    return number if abs(number) <= MAX_NUMBER else math.nan
