"""Skip-gram with negative sampling: vectors of tokens, learnt from which tokens stand near each other.

Mikolov et al. 2013, https://arxiv.org/abs/1310.4546: window, subsampling, noise and learning rate's fall as there. Two
things are other, so that a block of text is three matrix products instead of thousands of short vectors: the noise of a
block is drawn once for all its tokens (as in https://arxiv.org/abs/1604.04661) and its terms weigh accordingly, and a
row's steps are scaled by its past gradients (Adagrad), without which a block's sum of gradients can diverge.

Knows arrays of ids. Does not know tokenizers, files or models.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from export.corpora.spool import blocks

# Mikolov et al.'s figures.
WINDOW, NEGATIVES, NOISE_POWER, SAMPLE = 5, 5, 0.75, 1e-3
LEARNING_RATE = 0.3
PASSES = 10
# Of a long text less is read, in tokens × width: about two minutes of one core.
MAX_WORK = 3e9
# Tokens whose gradients are added up before a step, and the noise drawn for them.
BLOCK, NOISE = 128, 128
# Tokens that are drawn together; windows do not reach across.
SEGMENT = 10_000
# In place of what is no word; no token has this id.
GAP = -1


def skip_gram(
    ids: np.ndarray, is_word: np.ndarray, end: int | None, width: int, seed: int, say: Callable[[str], None]
) -> np.ndarray:
    """Learn a vector per token; alike for the same arguments.

    Args:
        ids: integers (tokens,). The text.
        is_word: bool (vocab,). What is no word is passed over, as if it did not stand in the text.
        end: The token that windows do not reach across, which is no word; None if there is none.
        width: Of the vectors.
        seed: Of beginnings, order and draws.
        say: Told four times how far it is.

    Returns:
        float32 (vocab, width). What does not occur keeps its beginning, near zero.
    """
    rng = np.random.default_rng(seed)
    counts = np.where(is_word, count_tokens(ids, len(is_word)), 0)
    total = int(min(PASSES * len(ids), MAX_WORK / width))
    vectors = _Vectors.begin(len(is_word), width, rng)
    noise = np.cumsum(counts**NOISE_POWER)
    done, started = 0, time.monotonic()
    # Two threads for products this small gain nothing, and lose 25 times where other programs want the cores too.
    with threadpool_limits(1, "blas"):
        for segment in _segments(ids, total, rng):
            for block in _blocks(_subsample(segment, counts, end, rng)):
                draws = np.searchsorted(noise, rng.random(NOISE) * noise[-1], side="right")
                vectors.learn(block, draws, rng, LEARNING_RATE * max(0.01, 1 - done / total))
            before, done = done, done + len(segment)
            if 4 * done // total > 4 * before // total:
                rate = done / (time.monotonic() - started)
                say(f"skip-gram: {done / total:.0%} of {total:,} tokens, {rate:,.0f} tokens/s")
    return vectors.tokens


def count_tokens(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return how often each id occurs, int64 (vocab,); of ids that are mapped from a file a part is in memory."""
    return sum((np.bincount(block, minlength=vocab_size) for block in blocks(ids)), np.zeros(vocab_size, np.int64))


def _segments(ids: np.ndarray, total: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield parts of a text, int32 (up to SEGMENT,) each, in an order drawn for each pass; `total` tokens in all."""
    starts = np.arange(0, len(ids), SEGMENT)
    while total > 0:
        for start in rng.permutation(starts):
            segment = ids[start : start + min(SEGMENT, total)].astype(np.int32)
            total -= len(segment)
            if len(segment):
                yield segment


def _subsample(segment: np.ndarray, counts: np.ndarray, end: int | None, rng: np.random.Generator) -> np.ndarray:
    """Drop what is no word and most of what is frequent; an end becomes a gap as wide as a window.

    The share that is kept is word2vec's own, not the paper's: https://code.google.com/archive/p/word2vec, word2vec.c.
    """
    is_end = segment == (GAP if end is None else end)
    ratio = SAMPLE * counts.sum() / np.maximum(counts[segment], 1)
    kept = (counts[segment] > 0) & (rng.random(len(segment)) < np.sqrt(ratio) + ratio)
    return np.repeat(np.where(is_end, GAP, segment), np.where(is_end, WINDOW, kept))


def _blocks(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Yield int32 (WINDOW + BLOCK + WINDOW,): tokens and what stands around them."""
    filled = -len(tokens) % BLOCK
    padded = np.pad(tokens, (WINDOW, filled + WINDOW), constant_values=GAP)
    for start in range(0, len(tokens), BLOCK):
        yield padded[start : start + BLOCK + 2 * WINDOW]


# bool (BLOCK, WINDOW + BLOCK + WINDOW): how far each place is from each token of a block.
_DISTANCE = np.abs(np.arange(-WINDOW, BLOCK + WINDOW) - np.arange(BLOCK)[:, None])


@dataclass(frozen=True)
class _Vectors:
    """What is learnt.

    Attributes:
        tokens: float32 (vocab, width). What a token is as the middle of a window.
        contexts: float32 (vocab, width). What it is as a neighbour.
        token_squares: float32 (vocab,). Mean squares of the gradients of each row of `tokens`, added up.
        context_squares: float32 (vocab,). And of `contexts`.
    """

    tokens: np.ndarray
    contexts: np.ndarray
    token_squares: np.ndarray
    context_squares: np.ndarray

    @classmethod
    def begin(cls, vocab_size: int, width: int, rng: np.random.Generator) -> "_Vectors":
        """Begin as word2vec does: tokens near zero, contexts at zero."""
        tokens = ((rng.random((vocab_size, width), np.float32) - 0.5) / width).astype(np.float32)
        squares = [np.zeros(vocab_size, np.float32) for _ in range(2)]
        return cls(tokens, np.zeros_like(tokens), *squares)

    def learn(self, block: np.ndarray, noise: np.ndarray, rng: np.random.Generator, rate: float) -> None:
        """Make one step: a token's neighbours become more probable, the noise less."""
        middle, others = block[WINDOW:-WINDOW], np.concatenate([block, noise])
        # A window's reach is drawn for each token, so that near neighbours count more.
        reach = rng.integers(1, WINDOW + 1, size=(BLOCK, 1))
        is_pair = (_DISTANCE > 0) & (reach >= _DISTANCE) & (block != GAP) & (middle != GAP)[:, None]
        x, y = self.tokens[middle], self.contexts[others]
        # Derivative of the logarithm of the likelihood by the products; the sigmoid as tanh, which does not overflow.
        slope = -(0.5 + 0.5 * np.tanh(0.5 * (x @ y.T)))  # (BLOCK, WINDOW + BLOCK + WINDOW + NOISE)
        slope[:, : len(block)] = (1 + slope[:, : len(block)]) * is_pair
        slope[:, len(block) :] *= is_pair.sum(axis=1, keepdims=True, dtype=np.float32) * (NEGATIVES / NOISE)
        _step(self.tokens, self.token_squares, middle, slope @ y, rate)
        _step(self.contexts, self.context_squares, others, slope.T @ x, rate)


def _step(table: np.ndarray, squares: np.ndarray, ids: np.ndarray, gradients: np.ndarray, rate: float) -> None:
    """Add to each row the sum of its gradients; gaps are left out."""
    # Sorting and adding runs up instead of `np.add.at`: a sixth of the whole time less.
    order = np.argsort(ids, kind="stable")
    first = np.flatnonzero(np.diff(ids[order], prepend=GAP))
    rows, sums = ids[order][first], np.add.reduceat(gradients[order], first, axis=0)
    squares[rows] += np.mean(sums**2, axis=1)
    table[rows] += rate / np.sqrt(squares[rows] + 1e-8)[:, None] * sums
