"""A text as token ids in the order in which a model reads them: in parallel streams, or a window before each token.

Knows corpora, tokenizers and arrays of ids. Does not know what is learnt from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from contract.card import Direction
from contract.tokenizer import Tokenizer
from export.config import TrainConfig
from export.corpus import Corpus
from export.errors import CorpusError

# Rows of validation: enough for matmuls to be worth it, few enough to start from the zero state seldom.
VALIDATION_STREAMS = 8
# Windows judged at once.
VALIDATION_WINDOWS = 256
# Windows of an epoch that are cut shorter, so that a model learns to go on with little.
SHARE_CUT = 0.25


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, direction: Direction = "forward") -> np.ndarray:
    """Return the ids of a corpus, int32 (tokens,), each document followed by the end mark if documents end.

    A backward model reads each document from its end; then the mark stands for the document's beginning.
    """
    step, mark = (-1 if direction == "backward" else 1), [tokenizer.special.end] if corpus.ends else []
    ids = [token_id for document in corpus.documents for token_id in tokenizer.encode(document)[::step] + mark]
    return np.asarray(ids, np.int32)


class Examples(Protocol):
    """What is learnt from, or judged by, in batches.

    Attributes:
        targets: int32, every token that is to be predicted.
        batch_tokens: Tokens that a model reads for one update.
    """

    targets: np.ndarray

    @property
    def rows(self) -> int:
        """Sequences side by side."""

    @property
    def batch_tokens(self) -> int:
        """Tokens that one update reads."""

    @property
    def num_windows(self) -> int:
        """Updates of an epoch."""

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield what is read, int32 (T, batch), and what is predicted, (T, batch) or (1, batch).

        Args:
            rng: Draws how this epoch differs from others; None for no difference.
        """


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

    @property
    def batch_tokens(self) -> int:
        """Tokens of a window, over all streams."""
        return self.rows * min(self.window, self.length)

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (window, streams) each: time first.

        Args:
            rng: Draws where the windows are cut: if every epoch cut at the same places, all would truncate there.
        """
        skip = 0 if rng is None else int(rng.integers(0, max(1, min(self.window, self.length // 2))))
        for start in range(skip, self.length, self.window):
            stop = start + self.window
            yield self.inputs[:, start:stop].T, self.targets[:, start:stop].T


@dataclass(frozen=True)
class Ngrams:
    """Each token with the window of those before it, padded in front, for models that carry no state.

    A window begins no earlier than its document, with the mark that stands before it.

    Attributes:
        read: int32 (tokens + 1,): the mark, then every token.
        reach: int32 (tokens,): how many tokens stand before each one within its document, the mark included.
        context: Tokens of a window.
        batch: Windows of one update.
    """

    read: np.ndarray
    reach: np.ndarray
    context: int
    batch: int

    @classmethod
    def lay_out(cls, ids: np.ndarray, mark: int, end: int | None, batch: int, context: int) -> Self:
        """Prepare.

        Args:
            ids: int32 (tokens,), at least 1.
            mark: The id that stands before the text.
            end: The id after which another document begins; None for one running text.
            batch: Windows wanted at once.
            context: Tokens of a window.
        """
        places = np.arange(len(ids))
        begins = np.concatenate([[True], ids[:-1] == end]) if end is not None else places == 0
        first = np.maximum.accumulate(np.where(begins, places, 0))
        read = np.concatenate([[mark], ids]).astype(np.int32)
        return cls(read, np.minimum(places - first + 1, context).astype(np.int32), context, min(batch, len(ids)))

    @property
    def targets(self) -> np.ndarray:
        """Every token of the text, int32 (tokens,)."""
        return self.read[1:]

    @property
    def rows(self) -> int:
        """Windows of one update."""
        return self.batch

    @property
    def batch_tokens(self) -> int:
        """Tokens of all windows of one update."""
        return self.batch * self.context

    @property
    def num_windows(self) -> int:
        """Updates of an epoch; the last one may have fewer windows."""
        return -(-self.num_tokens // self.batch)

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return len(self.reach)

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (context, batch) and (1, batch): time first.

        Args:
            rng: Draws the order, and windows to be cut shorter than the text would allow: a prompt may be short, and
                stands behind no mark.
        """
        places, reach = np.arange(self.num_tokens), self.reach
        if rng is not None:
            places = rng.permutation(places)
            cut = rng.random(len(reach)) < SHARE_CUT
            reach = np.where(cut, np.minimum(reach, rng.integers(1, self.context + 1, len(reach))), reach)
        back = np.arange(self.context - 1, -1, -1, dtype=np.int64)[:, None]
        for start in range(0, len(places), self.batch):
            chosen = places[start : start + self.batch]
            inputs = self.read[np.maximum(chosen[None] - back, 0)]
            yield np.where(back < reach[chosen][None], inputs, 0).astype(np.int32), self.targets[chosen][None]


@dataclass(frozen=True)
class Dataset:
    """What a training learns, and the held-out text that its epochs are judged by.

    Attributes:
        validation: None where nothing is held out.
        unknown: Id of what the vocabulary does not hold. It is never drawn, and may never have been learnt, so the
            held-out text is judged by its other tokens alone.
    """

    train: Examples
    validation: Examples | None
    unknown: int

    @classmethod
    def lay_out(cls, head: Corpus, tail: Corpus | None, tokenizer: Tokenizer, config: TrainConfig) -> Self:
        """Encode both parts of a corpus.

        Raises:
            CorpusError: a part is too short, or the vocabulary holds nothing of the tail.
        """
        unknown = tokenizer.special.unknown
        ids = encode_corpus(head, tokenizer, config.direction)
        if len(ids) < 2:
            raise CorpusError(f"corpus {head.name}: at least 2 tokens are needed to learn from, got {len(ids)}")
        train = _examples(ids, tokenizer, config, config.streams)
        if tail is None:
            return cls(train, None, unknown)
        ids = encode_corpus(tail, tokenizer, config.direction)
        rows = VALIDATION_WINDOWS if config.bidirectional else VALIDATION_STREAMS
        validation = _examples(ids, tokenizer, config, rows) if len(ids) else None
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


def _examples(ids: np.ndarray, tokenizer: Tokenizer, config: TrainConfig, rows: int) -> Examples:
    special = tokenizer.special
    if config.num_seen is not None:
        return Ngrams.lay_out(ids, special.start, special.end, rows, config.num_seen)
    return Streams.lay_out(ids, special.start, rows, config.window)
