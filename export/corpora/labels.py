"""The labels of a training file as columns of a model and as token ids, some of which are dropped in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from contract.label_columns import NO_LABEL, LabelColumn, as_number, label_ids
from contract.tokenizers import Tokenizer
from export.corpora.corpus import Corpus
from export.corpora.spool import BLOCK_BYTES, blocks
from export.errors import CorpusError

# Each label is a token.
MAX_VALUES = 1000
# For a column of numbers, with document counts as equal as its values allow.
NUM_BINS = 8


def learn_columns(head: Corpus, base: Sequence[LabelColumn] = ()) -> tuple[LabelColumn, ...]:
    """Return the columns of a training split, after those of a base, which keep their labels and bins.

    Raises:
        CorpusError: a column has no label or too many, or texts where the base has numbers.
    """
    known = {column.name: column for column in base}
    return tuple((known | {name: _learn(head, name, known.get(name)) for name in head.labels}).values())


def _learn(head: Corpus, name: str, base: LabelColumn | None) -> LabelColumn:
    found = sorted(set(head.labels[name].tolist()) - {NO_LABEL})
    what = f"corpus {head.name}: the label column {name}"
    if not found:
        raise CorpusError(f"{what} has no label in any record to train on")
    text = next((label for label in found if as_number(label) is None), None)
    if base is not None and base.bounds is not None:
        if text is not None:
            raise CorpusError(f"{what} must have numbers, as that of the base has bins of them; got {text!r}")
        return base
    if base is None and text is None:
        return LabelColumn.of_numbers(name, _bounds(head.labels[name]))
    values = tuple(dict.fromkeys([*(base.values if base else ()), *found]))
    if len(values) > MAX_VALUES:
        got = f"{len(values):,}: {', '.join(map(repr, values[:3]))} …"
        raise CorpusError(f"{what} must have numbers, or at most {MAX_VALUES:,} different labels; got {got}")
    return LabelColumn(name=name, values=values)


def _bounds(labels: np.ndarray) -> tuple[float, ...]:
    """Return the lower bounds of all bins but the first: quantiles without repetitions."""
    values = np.array([float(label) for label in labels if label != NO_LABEL])
    quantiles = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS, method="higher")
    return tuple(np.unique(quantiles[quantiles > values.min()]).tolist())


def document_labels(corpus: Corpus, columns: Sequence[LabelColumn], tokenizer: Tokenizer) -> np.ndarray | None:
    """Return the label tokens of each document, int32 (documents, columns); None without columns or documents.

    An unknown label, such as one of held-out documents alone, counts as none.
    """
    if not columns or not corpus.ends:
        return None
    ids, rows = label_ids(tokenizer), np.empty((corpus.num_documents, len(columns)), np.int32)
    for position, column in enumerate(columns):
        labels = corpus.labels.get(column.name, np.full(len(rows), NO_LABEL, object))
        by_label = {label: ids[column.token(column.find(label) or NO_LABEL)] for label in set(labels.tolist())}
        rows[:, position] = [by_label[label] for label in labels]
    return rows


@dataclass(frozen=True)
class LabelDropout:
    """The labels in the token ids of a corpus, some of which are replaced anew for each epoch.

    A model that also reads documents without labels can generate without them.

    Attributes:
        ids: Integers (tokens,), which are changed in place.
        positions: int64 (documents, columns): where the labels are in the ids.
        labels: Integers (documents, columns): the labels.
        none: Integers (columns,): the token of each column for documents without a label.
        rate: Probability that all labels of a document are dropped; of several, that of each further one, too.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    none: np.ndarray
    rate: float

    @classmethod
    def of(cls, ids: np.ndarray, tokenizer: Tokenizer, columns: tuple[LabelColumn, ...], rate: float) -> Self:
        is_label = np.zeros(len(tokenizer.tokens), bool)
        is_label[list(tokenizer.special.labels)] = True
        starts = range(0, len(ids), BLOCK_BYTES)
        found = [start + np.flatnonzero(is_label[block]) for start, block in zip(starts, blocks(ids), strict=True)]
        positions = np.concatenate(found).reshape(-1, len(columns))
        none = [label_ids(tokenizer)[column.token(NO_LABEL)] for column in columns]
        return cls(ids, positions, ids[positions], np.array(none, ids.dtype), rate)

    def apply(self, rng: np.random.Generator) -> None:
        num_documents, num_columns = self.positions.shape
        is_dropped = rng.random((num_documents, 1)) < self.rate
        if num_columns > 1:
            is_dropped = is_dropped | (rng.random((num_documents, num_columns)) < self.rate)
        self.ids[self.positions] = np.where(is_dropped, self.none, self.labels)
