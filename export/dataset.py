"""A text as parallel streams of token ids, cut into windows.

Knows corpora, tokenizers and arrays of ids. Does not know what is learnt from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from contract.tokenizer import Tokenizer
from export.corpus import Corpus
from export.errors import CorpusError

# Rows of validation: enough for matmuls to be worth it, few enough to start from the zero state seldom.
VALIDATION_STREAMS = 8


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids of a corpus, int32 (tokens,), each document followed by the end mark if documents end."""
    end = [tokenizer.special.end] if corpus.ends else []
    ids = [token_id for document in corpus.documents for token_id in tokenizer.encode(document) + end]
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
    def length(self) -> int:
        """Tokens of each stream."""
        return int(self.inputs.shape[1])

    @property
    def num_windows(self) -> int:
        """Windows of an epoch; the last may be shorter."""
        return -(-self.length // self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return int(self.targets.size)

    def windows(self, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (window, streams) each: time first.

        Args:
            skip: Start this many steps late, so that another epoch's windows are cut elsewhere.
        """
        for start in range(skip, self.length, self.window):
            stop = start + self.window
            yield self.inputs[:, start:stop].T, self.targets[:, start:stop].T


@dataclass(frozen=True)
class Dataset:
    """What a training learns, and the held-out text that its epochs are judged by.

    Attributes:
        validation: None where nothing is held out.
        unknown: Id of what the vocabulary does not hold. It is never drawn, and may never have been learnt, so the
            held-out text is judged by its other tokens alone.
    """

    train: Streams
    validation: Streams | None
    unknown: int

    @classmethod
    def lay_out(cls, head: Corpus, tail: Corpus | None, tokenizer: Tokenizer, streams: int, window: int) -> Self:
        """Encode both parts of a corpus.

        Raises:
            CorpusError: a part is too short, or the vocabulary holds nothing of the tail.
        """
        start, unknown = tokenizer.special.start, tokenizer.special.unknown
        ids = encode_corpus(head, tokenizer)
        if len(ids) < 2:
            raise CorpusError(f"corpus {head.name}: at least 2 tokens are needed to learn from, got {len(ids)}")
        train = Streams.lay_out(ids, start, streams, window)
        if tail is None:
            return cls(train, None, unknown)
        ids = encode_corpus(tail, tokenizer)
        validation = Streams.lay_out(ids, start, VALIDATION_STREAMS, window) if len(ids) else None
        dataset = cls(train, validation, unknown)
        if not dataset.num_judged:
            raise CorpusError(
                f"corpus {tail.name}: the vocabulary holds none of the {len(ids)} tokens held out; give more text, "
                f"another --validation or --validation 0"
            )
        return dataset

    @property
    def num_judged(self) -> int:
        """Held-out tokens that the validation loss is the mean of."""
        return int(np.sum(self.validation.targets != self.unknown)) if self.validation else 0

    @property
    def share_unknown(self) -> float:
        """Share of the held-out tokens that the vocabulary does not hold."""
        return 1 - self.num_judged / self.validation.num_tokens if self.validation else 0.0
