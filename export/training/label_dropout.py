"""Dropout of labels: a model that reads documents without them, too, generates without them, too."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from contract.label_columns import NO_LABEL, LabelColumn, label_ids
from contract.tokenizers import Tokenizer
from export.corpora.spool import BLOCK_BYTES, blocks


@dataclass(frozen=True)
class LabelDropout:
    """The labels in the token ids of a corpus, some of which are replaced anew for each epoch.

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
