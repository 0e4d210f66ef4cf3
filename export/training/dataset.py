"""A text as token ids in the order in which a model reads them: in parallel streams, or a window before each token.

Knows corpora, tokenizers and arrays of ids. Does not know what is learnt from them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, Self

import numpy as np

from contract.tokenizer import Tokenizer
from export.config import TrainConfig
from export.corpora.corpus import Corpus
from export.corpora.ids import encode_corpus
from export.corpora.spool import blocks
from export.errors import CorpusError

__all__ = ["Dataset", "Examples", "Ngrams", "Streams", "encode_corpus"]

# Rows of validation. A step of few takes nearly as long as one of many: 8 took a quarter of an epoch (`docs/log.md`).
VALIDATION_STREAMS = 64
# Tokens that a validation stream reads before it is judged, so that its state is as good as one that was carried there.
LEAD = 100
# A stream's own tokens are several times as many.
LEADS_PER_STREAM = 4
# Windows judged at once.
VALIDATION_WINDOWS = 256
# Windows of an epoch that are cut shorter, so that a model learns to go on with little.
SHARE_CUT = 0.25
# Windows whose order is drawn together, some 80 MB of memory, and tokens behind each other in a long text that go into
# the same draw: all of a text whose windows are so few.
DRAWN, RUN = 1 << 20, 1 << 15


class Examples(Protocol):
    """What is learnt from, or judged by, in batches."""

    @property
    def ids(self) -> np.ndarray:
        """Every token that is to be predicted, in order: integers (tokens,), mapped from a file."""

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
        ids: integers (tokens,), at least 1: lead + rows · a stream's own tokens.
        rows: Number of streams.
        first: The id that stands before the text: a text is learnt from its first token on, and the mark with it.
        window: Steps between two updates.
        lead: Tokens of the stream above that each stream but the first begins with, to be read and not predicted.
        unjudged: The id that these have where they would be predicted.
    """

    ids: np.ndarray
    rows: int
    first: int
    window: int
    lead: int = 0
    unjudged: int = 0

    @classmethod
    def lay_out(cls, ids: np.ndarray, first: int, batch_size: int, sequence_length: int) -> Self:
        """Cut ids into streams to learn from: as many as fill a sequence each, at most `batch_size`.

        Args:
            ids: integers (tokens,), at least 1; fewer than a row of them at the end are left out.
            first: The id that stands before the text.
            batch_size: Sequences wanted.
            sequence_length: Steps of an update.
        """
        rows = max(1, min(batch_size, len(ids) // sequence_length))
        return cls(ids[: len(ids) // rows * rows], rows, first, sequence_length)

    @classmethod
    def lay_out_to_judge(cls, ids: np.ndarray, first: int, window: int, unjudged: int) -> Self:
        """Cut ids into streams to judge by, each but the first led up to by the text in front of it.

        Args:
            ids: integers (tokens,), at least 1; fewer than a row of them at the end are left out.
            first: The id that stands before the text.
            window: Steps of a window.
            unjudged: The id that is not judged.
        """
        rows = max(1, min(VALIDATION_STREAMS, len(ids) // (LEAD * LEADS_PER_STREAM)))
        lead = LEAD if rows > 1 else 0
        return cls(ids[: lead + (len(ids) - lead) // rows * rows], rows, first, window, lead, unjudged)

    @property
    def targets(self) -> np.ndarray:
        """What each stream predicts, its lead included: integers (streams, length), a view of the ids."""
        return np.lib.stride_tricks.sliding_window_view(self.ids, self.length)[:: self._own]

    @property
    def length(self) -> int:
        """Tokens of each stream, with its lead."""
        return self.lead + self._own

    @property
    def _own(self) -> int:
        return (len(self.ids) - self.lead) // self.rows

    @property
    def num_windows(self) -> int:
        """Windows of an epoch; the last may be shorter."""
        return -(-self.length // self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return len(self.ids)

    @property
    def batch_tokens(self) -> int:
        """Tokens of a window, over all streams."""
        return self.rows * min(self.window, self.length)

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (window, streams) each: time first.

        Args:
            rng: Draws where the windows are cut: if every epoch cut at the same places, all would truncate there.
        """
        # Before the first token of a stream stands the one that precedes it in the text.
        targets, before = self.targets, [self.first, *self.ids[self._own - 1 :: self._own][: self.rows - 1]]
        skip = 0 if rng is None else int(rng.integers(0, max(1, min(self.window, self.length // 2))))
        for start in range(skip, self.length, self.window):
            predicted = targets[:, start : start + self.window].astype(np.int32)
            inputs = np.empty_like(predicted)
            inputs[:, 0] = targets[:, start - 1] if start else before
            inputs[:, 1:] = predicted[:, :-1]
            predicted[1:, : max(0, self.lead - start)] = self.unjudged
            yield inputs.T, predicted.T


@dataclass(frozen=True)
class Ngrams:
    """Each token with the window of those before it, padded in front, for models that carry no state.

    A window begins no earlier than its document, with the mark that stands before it.

    Attributes:
        ids: integers (tokens,), at least 1.
        mark: The id that stands before the text.
        end: The id after which another document begins; None for one running text.
        batch: Windows of one update.
        context: Tokens of a window.
    """

    ids: np.ndarray
    mark: int
    end: int | None
    batch: int
    context: int

    @classmethod
    def lay_out(cls, ids: np.ndarray, mark: int, end: int | None, batch: int, context: int) -> Self:
        """Prepare; of windows there are at most as many at once as there are tokens."""
        return cls(ids, mark, end, min(batch, len(ids)), context)

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
        return len(self.ids)

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (context, batch) and (1, batch): time first.

        Args:
            rng: Draws the order, and windows to be cut shorter than the text would allow: a prompt may be short, and
                stands behind no mark.
        """
        left = np.empty(0, np.int64), np.empty(0, np.int64)
        for drawn in self._order(rng):
            places, lengths = (np.concatenate(parts) for parts in zip(left, drawn, strict=True))
            whole = len(places) - len(places) % self.batch
            for start in range(0, whole, self.batch):
                yield self._batch(places[start : start + self.batch], lengths[start : start + self.batch])
            left = places[whole:], lengths[whole:]
        if len(left[0]):
            yield self._batch(*left)

    def _order(self, rng: np.random.Generator | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the places of an epoch's targets, some at a time, and how long the window before each may be.

        A long text is drawn from in runs: those of some places all over it are shuffled together.
        """
        num_runs = -(-self.num_tokens // RUN)
        runs = np.arange(num_runs) if rng is None or self.num_tokens <= DRAWN else rng.permutation(num_runs)
        for together in blocks(runs, DRAWN // RUN):
            places = (together[:, None] * RUN + np.arange(RUN)).ravel()
            places = places[places < self.num_tokens]
            lengths = np.full(len(places), self.context)
            if rng is not None:
                order = rng.permutation(len(places))
                cut = rng.random(len(places)) < SHARE_CUT
                lengths = np.where(cut, rng.integers(1, self.context + 1, len(places)), lengths)
                places, lengths = places[order], lengths[order]
            yield places, lengths

    def _batch(self, places: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows before some places, int32 (context, batch), and what stands there, int32 (1, batch)."""
        back = np.arange(self.context, 0, -1)[:, None]
        sources = places[None] - back
        windows = np.where(sources < 0, self.mark, self.ids[np.maximum(sources, 0)]).astype(np.int32)
        # One mark stands before the text, and nothing before it.
        begins = sources == -1 if self.end is None else (sources == -1) | (windows == self.end)
        newest = np.where(begins, back, self.context).min(axis=0)
        kept = back <= np.minimum(newest, lengths)
        return np.where(kept, windows, 0).astype(np.int32), self.ids[places][None].astype(np.int32)


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
        train = _examples(ids, tokenizer, config, judged=False)
        if tail is None:
            return cls(train, None, unknown)
        ids = encode_corpus(tail, tokenizer, config.direction)
        validation = _examples(ids, tokenizer, config, judged=True) if len(ids) else None
        dataset = cls(train, validation, unknown)
        if not dataset.num_judged:
            raise CorpusError(
                f"corpus {tail.name}: the vocabulary holds none of the {len(ids)} tokens held out; give more text, "
                f"another --validation or --validation 0"
            )
        return dataset

    @cached_property
    def num_judged(self) -> int:
        """Held-out tokens that the validation loss is the mean of."""
        ids = self.validation.ids if self.validation else np.empty(0)
        return sum(int(np.count_nonzero(block != self.unknown)) for block in blocks(ids))

    @property
    def share_unknown(self) -> float:
        """Share of the held-out tokens that the vocabulary does not hold."""
        return 1 - self.num_judged / self.validation.num_tokens if self.validation else 0.0


def _examples(ids: np.ndarray, tokenizer: Tokenizer, config: TrainConfig, *, judged: bool) -> Examples:
    special = tokenizer.special
    if config.num_seen is not None:
        rows = VALIDATION_WINDOWS if judged else config.batch_size
        return Ngrams.lay_out(ids, special.start, special.end, rows, config.num_seen)
    if judged:
        return Streams.lay_out_to_judge(ids, special.start, config.sequence_length, special.unknown)
    return Streams.lay_out(ids, special.start, config.batch_size, config.sequence_length)
