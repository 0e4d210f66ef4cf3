"""Batches of token ids for training and validation: parallel sequences with carried state, or sliding windows.

Knows corpora, tokenizers and arrays of token ids. Does not know models.
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

# Batch size of validation. A step of a small batch takes nearly as long as one of a large batch: with 8, validation
# took a quarter of an epoch (`docs/log.md`).
VALIDATION_STREAMS = 64
# Burn-in: tokens that a validation sequence reads before it is evaluated, so that its state is as good as a carried
# one.
LEAD = 100
# Minimum ratio of a validation sequence's evaluated tokens to its burn-in.
LEADS_PER_STREAM = 4
# Batch size of validation for a sliding-window model.
VALIDATION_WINDOWS = 256
# Share of an epoch's windows that are shortened, so that a model learns to continue a short prompt.
SHARE_CUT = 0.25
# Windows that are shuffled together, some 80 MB of memory, and consecutive tokens of a long text that stay in one
# shuffle. A text of at most `DRAWN` windows is shuffled as a whole.
DRAWN, RUN = 1 << 20, 1 << 15


class Examples(Protocol):
    """Batches of one split, for training or evaluation."""

    @property
    def ids(self) -> np.ndarray:
        """All target tokens in order: integers (tokens,), memory-mapped from a file."""

    @property
    def rows(self) -> int:
        """Batch size."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update."""

    @property
    def num_windows(self) -> int:
        """Updates of an epoch."""

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets) of each update: int32 (T, batch), and (T, batch) or (1, batch).

        Args:
            rng: Randomizes offsets or order of the epoch; None for a fixed order.
        """


@dataclass(frozen=True)
class Streams:
    """Parallel sequences for truncated BPTT with carried state: row b of a window continues in row b of the next.

    Attributes:
        ids: integers (tokens,), at least 1: lead + rows · a sequence's own tokens.
        rows: Batch size: number of parallel sequences.
        first: The start token's id, which precedes the text, so that the first token is a target too.
        window: Sequence length: steps between two updates.
        lead: Burn-in: last tokens of the preceding sequence that each sequence but the first begins with, to be read
            and not predicted.
        unjudged: The id that replaces burn-in tokens in the targets; it is not evaluated.
    """

    ids: np.ndarray
    rows: int
    first: int
    window: int
    lead: int = 0
    unjudged: int = 0

    @classmethod
    def lay_out(cls, ids: np.ndarray, first: int, batch_size: int, sequence_length: int) -> Self:
        """Lay out the training split: as many sequences as fill `sequence_length` tokens each, at most `batch_size`.

        Args:
            ids: integers (tokens,), at least 1; a remainder of fewer than `rows` tokens at the end is dropped.
            first: The start token's id.
            batch_size: Maximum number of parallel sequences.
            sequence_length: Steps of an update.
        """
        rows = max(1, min(batch_size, len(ids) // sequence_length))
        return cls(ids[: len(ids) // rows * rows], rows, first, sequence_length)

    @classmethod
    def lay_out_to_judge(cls, ids: np.ndarray, first: int, window: int, unjudged: int) -> Self:
        """Lay out the validation split; each sequence but the first has the preceding text as burn-in.

        Args:
            ids: integers (tokens,), at least 1; a remainder of fewer than `rows` tokens at the end is dropped.
            first: The start token's id.
            window: Sequence length.
            unjudged: The id that is not evaluated.
        """
        rows = max(1, min(VALIDATION_STREAMS, len(ids) // (LEAD * LEADS_PER_STREAM)))
        lead = LEAD if rows > 1 else 0
        return cls(ids[: lead + (len(ids) - lead) // rows * rows], rows, first, window, lead, unjudged)

    @property
    def targets(self) -> np.ndarray:
        """Targets of each sequence, burn-in included: integers (rows, length), a view of the ids."""
        return np.lib.stride_tricks.sliding_window_view(self.ids, self.length)[:: self._own]

    @property
    def length(self) -> int:
        """Tokens of each sequence, burn-in included."""
        return self.lead + self._own

    @property
    def _own(self) -> int:
        return (len(self.ids) - self.lead) // self.rows

    @property
    def num_windows(self) -> int:
        """Updates of an epoch; the last one may be shorter."""
        return -(-self.length // self.window)

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return len(self.ids)

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update, over all sequences of the batch."""
        return self.rows * min(self.window, self.length)

    def windows(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (window, rows) each: time first.

        Args:
            rng: Samples the offset of the first window; with a fixed offset, every epoch would truncate gradients at
                the same tokens.
        """
        # The first input of a sequence is the token that precedes it in the text.
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
    """Sliding windows for models without carried state: each token with its context, padded on the left.

    A window does not cross documents: it begins at the earliest with the special token before its document.

    Attributes:
        ids: integers (tokens,), at least 1.
        mark: The start token's id.
        end: The end token's id, which separates documents; None for one running text.
        batch: Batch size: windows of one update.
        context: Context length: tokens of a window.
    """

    ids: np.ndarray
    mark: int
    end: int | None
    batch: int
    context: int

    @classmethod
    def lay_out(cls, ids: np.ndarray, mark: int, end: int | None, batch: int, context: int) -> Self:
        """Lay out a split, with a batch size of at most the number of tokens."""
        return cls(ids, mark, end, min(batch, len(ids)), context)

    @property
    def rows(self) -> int:
        """Batch size: windows of one update."""
        return self.batch

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update, over all windows of the batch."""
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
            rng: Shuffles the windows, and chooses some to be shortened: a prompt may be short, without a start token
                before it.
        """
        remainder = np.empty(0, np.int64), np.empty(0, np.int64)
        for block in self._order(rng):
            positions, lengths = (np.concatenate(parts) for parts in zip(remainder, block, strict=True))
            stop = len(positions) - len(positions) % self.batch
            for start in range(0, stop, self.batch):
                yield self._batch(positions[start : start + self.batch], lengths[start : start + self.batch])
            remainder = positions[stop:], lengths[stop:]
        if len(remainder[0]):
            yield self._batch(*remainder)

    def _order(self, rng: np.random.Generator | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of an epoch's targets block by block, and the maximum length of each window.

        A long text is split into runs of consecutive tokens. Each block shuffles randomly chosen runs together.
        """
        num_runs = -(-self.num_tokens // RUN)
        runs = np.arange(num_runs) if rng is None or self.num_tokens <= DRAWN else rng.permutation(num_runs)
        for block in blocks(runs, DRAWN // RUN):
            positions = (block[:, None] * RUN + np.arange(RUN)).ravel()
            positions = positions[positions < self.num_tokens]
            lengths = np.full(len(positions), self.context)
            if rng is not None:
                order = rng.permutation(len(positions))
                cut = rng.random(len(positions)) < SHARE_CUT
                lengths = np.where(cut, rng.integers(1, self.context + 1, len(positions)), lengths)
                positions, lengths = positions[order], lengths[order]
            yield positions, lengths

    def _batch(self, positions: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows before some positions, int32 (context, batch), and their targets, int32 (1, batch)."""
        back = np.arange(self.context, 0, -1)[:, None]
        sources = positions[None] - back
        windows = np.where(sources < 0, self.mark, self.ids[np.maximum(sources, 0)]).astype(np.int32)
        # The start token precedes the text; everything before it is padding.
        begins = sources == -1 if self.end is None else (sources == -1) | (windows == self.end)
        to_document_start = np.where(begins, back, self.context).min(axis=0)
        kept = back <= np.minimum(to_document_start, lengths)
        return np.where(kept, windows, 0).astype(np.int32), self.ids[positions][None].astype(np.int32)


@dataclass(frozen=True)
class Dataset:
    """Training and validation split.

    Attributes:
        validation: None if nothing is held out.
        unknown: The unknown token's id. It is never sampled and may not occur in training, so the evaluation skips it.
    """

    train: Examples
    validation: Examples | None
    unknown: int

    @classmethod
    def lay_out(cls, head: Corpus, tail: Corpus | None, tokenizer: Tokenizer, config: TrainConfig) -> Self:
        """Encode and lay out both splits of a corpus.

        Raises:
            CorpusError: the training split is too short, or the vocabulary contains no token of the validation split.
        """
        unknown = tokenizer.special.unknown
        ids = encode_corpus(head, tokenizer, config.direction)
        if len(ids) < 2:
            raise CorpusError(f"corpus {head.name}: at least 2 tokens are needed to learn from, got {len(ids)}")
        train = _examples(ids, tokenizer, config, for_validation=False)
        if tail is None:
            return cls(train, None, unknown)
        ids = encode_corpus(tail, tokenizer, config.direction)
        validation = _examples(ids, tokenizer, config, for_validation=True) if len(ids) else None
        dataset = cls(train, validation, unknown)
        if not dataset.num_judged:
            raise CorpusError(
                f"corpus {tail.name}: the vocabulary holds none of the {len(ids)} tokens held out; give more text, "
                f"another --validation or --validation 0"
            )
        return dataset

    @cached_property
    def num_judged(self) -> int:
        """Number of evaluated validation tokens, which the validation loss is averaged over."""
        ids = self.validation.ids if self.validation else np.empty(0)
        return sum(int(np.count_nonzero(block != self.unknown)) for block in blocks(ids))

    @property
    def share_unknown(self) -> float:
        """Share of the validation tokens that are unknown to the vocabulary."""
        return 1 - self.num_judged / self.validation.num_tokens if self.validation else 0.0


def _examples(ids: np.ndarray, tokenizer: Tokenizer, config: TrainConfig, *, for_validation: bool) -> Examples:
    special = tokenizer.special
    if config.num_seen is not None:
        batch_size = VALIDATION_WINDOWS if for_validation else config.batch_size
        return Ngrams.lay_out(ids, special.start, special.end, batch_size, config.num_seen)
    if for_validation:
        return Streams.lay_out_to_judge(ids, special.start, config.sequence_length, special.unknown)
    return Streams.lay_out(ids, special.start, config.batch_size, config.sequence_length)
