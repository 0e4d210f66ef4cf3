"""Batches of token ids for training and validation: parallel sequences with carried state, or sliding windows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from contract.card import CorpusDescription, HeldOut, MixedText
from contract.label_columns import LabelColumn
from contract.tokenizers import Tokenizer
from export.config import TrainConfig
from export.corpora.bits_per_character import count_characters, count_tokens
from export.corpora.corpus import Corpus
from export.corpora.encoder import encode_corpus
from export.corpora.labels import LabelDropout, document_labels
from export.corpora.ngrams import ngram_baseline
from export.corpora.packaged import provenance_of
from export.corpora.spool import blocks
from export.errors import CorpusError

# Batch size of validation. A step of a small batch takes nearly as long as that of a large one: with 8, validation took
# a quarter of an epoch (`benchmarks/HISTORY.md`).
VALIDATION_BATCH_SIZE = 64
# Burn-in: tokens that a validation sequence reads before its evaluation, so that its state is as good as a carried one.
BURN_IN = 100
# Minimum ratio of a validation sequence's evaluated tokens to its burn-in.
MIN_EVALUATED_PER_BURN_IN = 4
# Batch size of validation for a sliding-window model.
VALIDATION_WINDOWS = 256
# Share of an epoch's windows that are shortened, so that the model learns to continue short prompts.
SHARE_SHORTENED = 0.25
# Windows that are shuffled together, some 80 MB of memory, and consecutive tokens of a long text that stay in one
# shuffle. A text of at most `SHUFFLED_WINDOWS` windows is shuffled as a whole.
SHUFFLED_WINDOWS, RUN_TOKENS = 1 << 20, 1 << 15


@dataclass(frozen=True)
class _Split:
    """Batches of one split, for training or evaluation; each is one update.

    Attributes:
        ids: All target tokens in order: integers (tokens,), at least 1, memory-mapped from a file.
        batch_size: Sequences or windows of a batch.
        start_id: The start token's id, which precedes the text, so that the first token is a target too.
    """

    ids: np.ndarray
    batch_size: int
    start_id: int

    @property
    def num_tokens(self) -> int:
        """Tokens predicted in an epoch."""
        return len(self.ids)


@dataclass(frozen=True)
class Sequences(_Split):
    """Parallel sequences for truncated BPTT with carried state: row b of a batch continues in row b of the next.

    Attributes:
        ids: burn_in + batch_size · a sequence's own tokens.
        sequence_length: Steps of an update.
        burn_in: Number of the preceding sequence's last tokens with which each sequence but the first begins, read but
            not predicted.
        ignored_id: The id that replaces burn-in tokens in the targets; it is not evaluated.
    """

    sequence_length: int
    burn_in: int = 0
    ignored_id: int = 0

    @classmethod
    def for_training(cls, ids: np.ndarray, start_id: int, batch_size: int, sequence_length: int) -> Self:
        """Lay out as many sequences as fill `sequence_length` tokens each, at most `batch_size`.

        A remainder of fewer than `batch_size` tokens at the end is dropped.
        """
        batch_size = max(1, min(batch_size, len(ids) // sequence_length))
        return cls(ids[: len(ids) // batch_size * batch_size], batch_size, start_id, sequence_length)

    @classmethod
    def for_validation(cls, ids: np.ndarray, start_id: int, sequence_length: int, ignored_id: int) -> Self:
        """Lay out sequences of which each but the first has the preceding text as burn-in; see `for_training`."""
        batch_size = max(1, min(VALIDATION_BATCH_SIZE, len(ids) // (BURN_IN * MIN_EVALUATED_PER_BURN_IN)))
        burn_in = BURN_IN if batch_size > 1 else 0
        kept = ids[: burn_in + (len(ids) - burn_in) // batch_size * batch_size]
        return cls(kept, batch_size, start_id, sequence_length, burn_in, ignored_id)

    @property
    def length(self) -> int:
        """Tokens of each sequence, burn-in included."""
        return self.burn_in + self._own

    @property
    def _own(self) -> int:
        return (len(self.ids) - self.burn_in) // self.batch_size

    @property
    def num_batches(self) -> int:
        """Updates of an epoch; the last one may be shorter."""
        return -(-self.length // self.sequence_length)

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update, over all sequences of the batch."""
        return self.batch_size * min(self.sequence_length, self.length)

    def batches(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (sequence_length, batch_size) each: time first; the last one may be shorter.

        The generator picks the token at which the first sequence starts. The text is treated as circular, so that every
        token is predicted once. With a fixed start, every epoch would truncate gradients at the same tokens.
        """
        offset = 0 if rng is None else int(rng.integers(len(self.ids)))
        firsts = offset + self._own * np.arange(self.batch_size)
        for start in range(0, self.length, self.sequence_length):
            steps = np.arange(start, min(start + self.sequence_length, self.length))
            positions = (firsts + steps[:, None]) % len(self.ids)
            targets = self.ids[positions].astype(np.int32)
            inputs = np.where(positions, self.ids[positions - 1], self.start_id).astype(np.int32)
            targets[: max(0, self.burn_in - start), 1:] = self.ignored_id
            yield inputs, targets


@dataclass(frozen=True)
class SlidingWindows(_Split):
    """Windows for models without carried state: each token with its context, padded on the left.

    A window does not cross documents: it begins at the earliest with the special token before its document.
    """

    end_id: int | None  # the end token's id, which separates documents; None for one running text
    context: int  # context length: tokens of a window

    @property
    def batch_tokens(self) -> int:
        """Tokens of one update, over all windows of the batch."""
        return self.batch_size * self.context

    @property
    def num_batches(self) -> int:
        """Updates of an epoch; the last one may have fewer windows."""
        return -(-self.num_tokens // self.batch_size)

    def batches(self, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets), int32 (context, batch_size) and (1, batch_size): time first.

        With a generator, windows are shuffled and some shortened, as a prompt may be short, without a start token
        before it.
        """
        remainder = np.empty(0, np.int64), np.empty(0, np.int64)
        for block in self._order(rng):
            positions, lengths = (np.concatenate(parts) for parts in zip(remainder, block, strict=True))
            stop = len(positions) - len(positions) % self.batch_size
            for start in range(0, stop, self.batch_size):
                batch = slice(start, start + self.batch_size)
                yield self.windows(positions[batch], lengths[batch])
            remainder = positions[stop:], lengths[stop:]
        if len(remainder[0]):
            yield self.windows(*remainder)

    def _order(self, rng: np.random.Generator | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of an epoch's targets block by block, and the maximum length of each window.

        A long text is split into runs of consecutive tokens. Each block shuffles randomly chosen runs together.
        """
        num_runs = -(-self.num_tokens // RUN_TOKENS)
        runs = np.arange(num_runs) if rng is None or self.num_tokens <= SHUFFLED_WINDOWS else rng.permutation(num_runs)
        for block in blocks(runs, SHUFFLED_WINDOWS // RUN_TOKENS):
            positions = (block[:, None] * RUN_TOKENS + np.arange(RUN_TOKENS)).ravel()
            positions = positions[positions < self.num_tokens]
            lengths = np.full(len(positions), self.context)
            if rng is not None:
                order = rng.permutation(len(positions))
                is_shortened = rng.random(len(positions)) < SHARE_SHORTENED
                lengths = np.where(is_shortened, rng.integers(1, self.context + 1, len(positions)), lengths)
                positions, lengths = positions[order], lengths[order]
            yield positions, lengths

    def windows(self, positions: np.ndarray, lengths: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the windows before some positions, int32 (context, batch), and their targets, int32 (1, batch).

        `lengths` are the maximum lengths of the windows, integers (batch,); None does not shorten them.
        """
        back = np.arange(self.context, 0, -1)[:, None]
        sources = positions[None] - back
        windows = np.where(sources < 0, self.start_id, self.ids[np.maximum(sources, 0)]).astype(np.int32)
        # The start token precedes the text; everything before it is padding.
        begins = sources == -1 if self.end_id is None else (sources == -1) | (windows == self.end_id)
        to_document_start = np.where(begins, back, self.context).min(axis=0)
        kept = back <= (to_document_start if lengths is None else np.minimum(to_document_start, lengths))
        return np.where(kept, windows, 0).astype(np.int32), self.ids[positions][None].astype(np.int32)


@dataclass(frozen=True)
class Mixed:
    """Batches of a training split, each with rows of another text, so that a fine-tuned model forgets less of it.

    These rows are excerpts that are sampled anew for each epoch. Within an epoch they carry their state.

    Attributes:
        main: Batches of the training split.
        other_ids: All tokens of the other text: integers (tokens,).
        num_rows: Rows of each batch that are of the other text.
    """

    main: Sequences | SlidingWindows
    other_ids: np.ndarray
    num_rows: int

    @classmethod
    def of(cls, main: Sequences | SlidingWindows, other_ids: np.ndarray, share: float) -> Self:
        """Mix in another text with this share of the rows, but at least one row."""
        return cls(main, other_ids, max(1, round(main.batch_size * share / (1 - share))))

    @property
    def ids(self) -> np.ndarray:
        return self.main.ids

    @property
    def batch_size(self) -> int:
        return self.main.batch_size + self.num_rows

    @property
    def num_batches(self) -> int:
        return self.main.num_batches

    @property
    def batch_tokens(self) -> int:
        return self.main.batch_tokens // self.main.batch_size * self.batch_size

    @property
    def num_other_tokens(self) -> int:
        """Tokens of the other text that are predicted in an epoch."""
        return self.num_rows * (self.main.length if isinstance(self.main, Sequences) else self.main.num_batches)

    @property
    def num_tokens(self) -> int:
        """Tokens of both texts that are predicted in an epoch."""
        return self.main.num_tokens + self.num_other_tokens

    def batches(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (inputs, targets) as `main` does, time first, with the rows of the other text after its own."""
        count, num_ids = 0, len(self.other_ids)
        starts = rng.integers(0, num_ids, self.num_rows)
        for inputs, targets in self.main.batches(rng):
            if isinstance(self.main, Sequences):
                excerpt = self.other_ids[(starts + count + np.arange(len(inputs) + 1)[:, None]) % num_ids]
                others = excerpt[:-1], excerpt[1:]
                count += len(inputs)
            else:
                others = replace(self.main, ids=self.other_ids).windows(rng.integers(0, num_ids, self.num_rows))
            columns = zip((inputs, targets), others, strict=True)
            yield tuple(np.concatenate([own, other.astype(np.int32)], axis=1) for own, other in columns)


# Its `batches` yield int32 (T, batch) inputs and (T, batch) or (1, batch) targets.
Split = Sequences | SlidingWindows


@dataclass(frozen=True)
class Dataset:
    """Training and validation split of a corpus, encoded and laid out."""

    head: Corpus  # text of the training split
    tail: Corpus | None  # text of the validation split; None if nothing is held out
    train: Split | Mixed  # batches of the training split
    validation: Split | None  # batches of the validation split; None if nothing is held out
    tokenizer: Tokenizer
    mixed: Corpus | None = None  # text that is mixed into the training split
    columns: tuple[LabelColumn, ...] = ()  # label columns of the model
    dropouts: tuple[LabelDropout, ...] = ()  # the labels of both texts to train on

    @classmethod
    def lay_out(
        cls,
        head: Corpus,
        tail: Corpus | None,
        tokenizer: Tokenizer,
        config: TrainConfig,
        mixed: Corpus | None = None,
        columns: tuple[LabelColumn, ...] = (),
    ) -> Self:
        """Encode and lay out both splits of a corpus; the tokenizer covers the training split and the columns.

        Only the training split of a mixed-in text is used.

        Raises:
            CorpusError: the training split is too short, or the vocabulary contains no token of the validation split.
        """

        def encode(text: Corpus) -> np.ndarray:
            return encode_corpus(text, tokenizer, config.direction, document_labels(text, columns, tokenizer))

        ids = encode(head)
        if len(ids) < 2:
            raise CorpusError(f"corpus {head.name}: at least 2 tokens are needed to train on, got {len(ids)}")
        other_ids = None
        if mixed is not None:
            other_ids = encode(mixed.split(config.validation_fraction(mixed.num_characters), config.seed)[0])
        train = _lay_out_training(ids, tokenizer, config, other_ids)
        # A running text, from which a model with labels may be trained further, has none.
        labeled = [part for part in (ids, other_ids) if part is not None and columns and head.ends]
        dropouts = tuple(LabelDropout.of(part, tokenizer, columns, config.label_dropout) for part in labeled)
        held_out = np.empty(0, np.uint8) if tail is None else encode(tail)
        validation = _lay_out(held_out, tokenizer, config, for_validation=True) if len(held_out) else None
        dataset = cls(head, tail, train, validation, tokenizer, mixed, columns, dropouts)
        if tail is not None and not dataset.num_evaluated:
            raise CorpusError(
                f"corpus {tail.name}: the vocabulary has none of the {len(held_out)} tokens held out; give more "
                f"text, another --validation or --validation 0"
            )
        return dataset

    @cached_property
    def target_counts(self) -> np.ndarray:
        """Frequency of each token in the training split, int64 (vocab,), without labels."""
        return self._count_targets(self.train.ids)

    @cached_property
    def _validation_counts(self) -> np.ndarray:
        return self._count_targets(self.validation.ids if self.validation else np.empty(0, np.uint8))

    def _count_targets(self, token_ids: np.ndarray) -> np.ndarray:
        counts = count_tokens(token_ids, len(self.tokenizer))
        counts[list(self.tokenizer.special.labels)] = 0
        return counts

    @property
    def num_evaluated(self) -> int:
        """Number of evaluated validation tokens, which the validation loss is averaged over.

        The unknown token is not evaluated: it is never sampled and may not occur in training.
        """
        counts = self._validation_counts
        return int(counts.sum() - counts[self.tokenizer.special.unknown])

    @property
    def share_unknown(self) -> float:
        """Share of the validation tokens that are unknown to the vocabulary."""
        return 1 - self.num_evaluated / self._validation_counts.sum() if self.validation else 0.0

    def ngram_baseline(self) -> tuple[int, float] | None:
        """Return `ngrams.ngram_baseline` of the splits; None if nothing is held out. Takes some seconds."""
        if self.validation is None:
            return None
        is_target = np.ones(len(self.tokenizer), bool)
        is_target[[self.tokenizer.special.unknown, *self.tokenizer.special.labels]] = False
        return ngram_baseline(self.train.ids, self.validation.ids, is_target)

    def describe(self, corpus: Corpus) -> CorpusDescription:
        """Return the description of the whole corpus for the card."""
        how: HeldOut = "shuffled_documents" if corpus.ends else "tail"
        ngram_order, ngram_loss = self.ngram_baseline() or (None, None)
        if self.tail and self.tail.spool is not self.head.spool:
            how = "validation_corpus"
        return CorpusDescription(
            corpus=corpus.name,
            corpus_sha256=corpus.sha256(),
            corpus_characters=corpus.num_characters,
            held_out_characters=self.tail.num_characters if self.tail else 0,
            held_out=how if self.tail else None,
            held_out_sha256=self.tail.sha256() if self.tail else None,
            train_tokens=self.train.num_tokens,
            validation_tokens=self.num_evaluated,
            validation_characters=count_characters(self.tokenizer, self.validation.ids) if self.validation else 0,
            ngram_order=ngram_order,
            ngram_loss=ngram_loss,
            mixed=self._describe_mixed(),
            provenance=provenance_of(corpus.name),
            label_columns=self.columns,
        )

    def _describe_mixed(self) -> MixedText | None:
        if self.mixed is None or not isinstance(self.train, Mixed):
            return None
        return MixedText(
            corpus=self.mixed.name,
            corpus_sha256=self.mixed.sha256(),
            corpus_characters=self.mixed.num_characters,
            tokens=self.train.num_other_tokens,
        )


def _lay_out_training(
    ids: np.ndarray, tokenizer: Tokenizer, config: TrainConfig, other_ids: np.ndarray | None
) -> Split | Mixed:
    if other_ids is None:
        return _lay_out(ids, tokenizer, config, for_validation=False)
    # Both texts share the batch.
    size = max(1, config.batch_size - round(config.batch_size * config.mix_share))
    main = _lay_out(ids, tokenizer, config.model_copy(update={"batch_size": size}), for_validation=False)
    return Mixed.of(main, other_ids, config.mix_share)


def _lay_out(ids: np.ndarray, tokenizer: Tokenizer, config: TrainConfig, *, for_validation: bool) -> Split:
    start_id, end_id = tokenizer.special.start, tokenizer.special.end
    if config.window_length is not None:
        batch_size = min(VALIDATION_WINDOWS if for_validation else config.batch_size, len(ids))
        return SlidingWindows(ids, batch_size, start_id, end_id, config.window_length)
    if for_validation:
        return Sequences.for_validation(ids, start_id, config.sequence_length, tokenizer.special.unknown)
    return Sequences.for_training(ids, start_id, config.batch_size, config.sequence_length)
