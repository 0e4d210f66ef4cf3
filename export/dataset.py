"""A text as parallel streams of token ids, cut into windows.

Knows arrays of ids. Does not know where they come from or what is learnt from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from contract.tokenizer import Tokenizer
from export.corpus import Corpus
from export.errors import CorpusError


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids of a corpus, int32 (tokens,), each document followed by the end mark if documents end.

    Raises:
        CorpusError: fewer than two tokens.
    """
    end = [tokenizer.special.end] if corpus.ends else []
    ids = [token_id for document in corpus.documents for token_id in tokenizer.encode(document) + end]
    if len(ids) < 2:
        raise CorpusError(f"corpus {corpus.name}: at least 2 tokens are needed to learn from, got {len(ids)}")
    return np.asarray(ids, np.int32)


@dataclass(frozen=True)
class Streams:
    """Ids laid side by side, for training with carried state: row b of one window goes on in row b of the next.

    Attributes:
        inputs: int32 (streams, length).
        targets: int32 (streams, length): each input's successor.
        window: Steps between two updates.
    """

    inputs: np.ndarray
    targets: np.ndarray
    window: int

    @classmethod
    def lay_out(cls, ids: np.ndarray, first: int, streams: int, window: int) -> Self:
        """Cut ids into as many streams as fill a window each, at most `streams`.

        Args:
            ids: int32 (tokens,), at least 1.
            first: The id that stands before the text: a text is learnt from its first token on, and the start mark is
                learnt with it.
            streams: Rows wanted.
            window: Steps of a window.
        """
        rows = max(1, min(streams, len(ids) // window))
        length = len(ids) // rows
        targets = ids[: rows * length].reshape(rows, length)
        inputs = np.concatenate([[first], ids[: rows * length - 1]]).astype(np.int32).reshape(rows, length)
        return cls(inputs, targets, window)

    @property
    def rows(self) -> int:
        """Number of streams."""
        return int(self.inputs.shape[0])

    @property
    def num_windows(self) -> int:
        """Windows of an epoch; the last may be shorter."""
        return -(-self.inputs.shape[1] // self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return int(self.targets.size)

    def windows(self, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (window, streams) each: time first.

        Args:
            skip: Start this many steps late, so that another epoch's windows are cut elsewhere.
        """
        for start in range(skip, self.inputs.shape[1], self.window):
            stop = start + self.window
            yield self.inputs[:, start:stop].T, self.targets[:, start:stop].T
