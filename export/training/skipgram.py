"""Skip-gram with negative sampling: token vectors learned from the tokens' neighbours.

Window, subsampling, noise distribution and learning rate decay follow Mikolov et al. 2013,
https://arxiv.org/abs/1310.4546. There are two differences, so that a block of text takes three matrix products instead
of thousands of short vector operations. All tokens of a block share negative samples (as in
https://arxiv.org/abs/1604.04661), whose terms are weighted accordingly. Updates of a row are scaled by its past
gradients (Adagrad); without that, the summed gradient of a block can diverge.

Knows arrays of token ids. Does not know tokenizers, files or models.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from export.corpora.spool import blocks

# Hyperparameters of Mikolov et al.
WINDOW, NEGATIVES, NOISE_POWER, SAMPLE = 5, 5, 0.75, 1e-3
LEARNING_RATE = 0.3
PASSES = 10
# Maximum work in tokens × width, which limits the passes over a long text: about two minutes of one core.
MAX_WORK = 3e9
# Tokens per update, and negative samples that they share.
BLOCK, NOISE = 128, 128
# Consecutive tokens that are shuffled as a unit; windows do not cross segments.
SEGMENT = 10_000
# Placeholder id of positions without a word; no token has it.
GAP = -1


def skip_gram(
    ids: np.ndarray, is_word: np.ndarray, end: int | None, width: int, seed: int, echo: Callable[[str], None]
) -> np.ndarray:
    """Train a vector per token, float32 (vocab, width); reproducible for the same arguments.

    Tokens of the text, (tokens,), that are not words, bool (vocab,), are skipped, as if they were not in it. Windows do
    not cross the end token, which is not a word. A token that does not occur keeps its initial vector, near zero.
    `echo` gets four progress messages.
    """
    rng = np.random.default_rng(seed)
    counts = np.where(is_word, count_tokens(ids, len(is_word)), 0)
    total = int(min(PASSES * len(ids), MAX_WORK / width))
    vectors = _Vectors.begin(len(is_word), width, rng)
    noise = np.cumsum(counts**NOISE_POWER)
    done, started = 0, time.monotonic()
    # For products this small a second thread gains nothing; if other programs use the cores, it is 25 times slower.
    with threadpool_limits(1, "blas"):
        for segment in _segments(ids, total, rng):
            for block in _blocks(_subsample(segment, counts, end, rng)):
                negatives = np.searchsorted(noise, rng.random(NOISE) * noise[-1], side="right")
                vectors.learn(block, negatives, rng, LEARNING_RATE * max(0.01, 1 - done / total))
            before, done = done, done + len(segment)
            if 4 * done // total > 4 * before // total:
                rate = done / (time.monotonic() - started)
                echo(f"skip-gram: {done / total:.0%} of {total:,} tokens, {rate:,.0f} tokens/s")
    return vectors.tokens


def count_tokens(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return the frequency of each id, int64 (vocab,); reads memory-mapped ids block by block."""
    return sum((np.bincount(block, minlength=vocab_size) for block in blocks(ids)), np.zeros(vocab_size, np.int64))


def _segments(ids: np.ndarray, total: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield segments, int32 (up to SEGMENT,) each, shuffled anew for each pass; `total` tokens in all."""
    starts = np.arange(0, len(ids), SEGMENT)
    while total > 0:
        for start in rng.permutation(starts):
            segment = ids[start : start + min(SEGMENT, total)].astype(np.int32)
            total -= len(segment)
            if len(segment):
                yield segment


def _subsample(segment: np.ndarray, counts: np.ndarray, end: int | None, rng: np.random.Generator) -> np.ndarray:
    """Drop tokens that are not words and subsample frequent ones; an end token becomes a gap as wide as a window.

    The keep probability is word2vec's, not the paper's: https://code.google.com/archive/p/word2vec, word2vec.c.
    """
    is_end = segment == (GAP if end is None else end)
    ratio = SAMPLE * counts.sum() / np.maximum(counts[segment], 1)
    kept = (counts[segment] > 0) & (rng.random(len(segment)) < np.sqrt(ratio) + ratio)
    return np.repeat(np.where(is_end, GAP, segment), np.where(is_end, WINDOW, kept))


def _blocks(tokens: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of tokens with their context on both sides: int32 (WINDOW + BLOCK + WINDOW,)."""
    padding = -len(tokens) % BLOCK
    padded = np.pad(tokens, (WINDOW, padding + WINDOW), constant_values=GAP)
    for start in range(0, len(tokens), BLOCK):
        yield padded[start : start + BLOCK + 2 * WINDOW]


# int (BLOCK, WINDOW + BLOCK + WINDOW): distance of each position from each token of a block.
_DISTANCE = np.abs(np.arange(-WINDOW, BLOCK + WINDOW) - np.arange(BLOCK)[:, None])


@dataclass(frozen=True)
class _Vectors:
    """Token and context vectors, and their Adagrad accumulators.

    Attributes:
        tokens: float32 (vocab, width). Vector of each token as the center of a window.
        contexts: float32 (vocab, width). Vector of each token as a neighbour.
        token_squares: float32 (vocab,). Summed mean squared gradients of each row of `tokens`.
        context_squares: float32 (vocab,). The same for `contexts`.
    """

    tokens: np.ndarray
    contexts: np.ndarray
    token_squares: np.ndarray
    context_squares: np.ndarray

    @classmethod
    def begin(cls, vocab_size: int, width: int, rng: np.random.Generator) -> "_Vectors":
        """Initialize as word2vec does: tokens near zero, contexts at zero."""
        tokens = ((rng.random((vocab_size, width), np.float32) - 0.5) / width).astype(np.float32)
        squares = [np.zeros(vocab_size, np.float32) for _ in range(2)]
        return cls(tokens, np.zeros_like(tokens), *squares)

    def learn(self, block: np.ndarray, noise: np.ndarray, rng: np.random.Generator, rate: float) -> None:
        """Apply one update, which makes neighbours of a token more probable and negative samples less."""
        middle, others = block[WINDOW:-WINDOW], np.concatenate([block, noise])
        # The window size is sampled for each token, so that near neighbours have more weight.
        reach = rng.integers(1, WINDOW + 1, size=(BLOCK, 1))
        is_pair = (_DISTANCE > 0) & (reach >= _DISTANCE) & (block != GAP) & (middle != GAP)[:, None]
        x, y = self.tokens[middle], self.contexts[others]
        # Derivative of the log-likelihood by the products; the sigmoid is computed by tanh, which does not overflow.
        slope = -(0.5 + 0.5 * np.tanh(0.5 * (x @ y.T)))  # (BLOCK, WINDOW + BLOCK + WINDOW + NOISE)
        slope[:, : len(block)] = (1 + slope[:, : len(block)]) * is_pair
        slope[:, len(block) :] *= is_pair.sum(axis=1, keepdims=True, dtype=np.float32) * (NEGATIVES / NOISE)
        _step(self.tokens, self.token_squares, middle, slope @ y, rate)
        _step(self.contexts, self.context_squares, others, slope.T @ x, rate)


def _step(table: np.ndarray, squares: np.ndarray, ids: np.ndarray, gradients: np.ndarray, rate: float) -> None:
    """Apply an Adagrad update to each row, by the sum of its gradients; gaps are skipped."""
    # Sorting and `reduceat` instead of `np.add.at` save a sixth of the total time.
    order = np.argsort(ids, kind="stable")
    first = np.flatnonzero(np.diff(ids[order], prepend=GAP))
    rows, sums = ids[order][first], np.add.reduceat(gradients[order], first, axis=0)
    squares[rows] += np.mean(sums**2, axis=1)
    table[rows] += rate / np.sqrt(squares[rows] + 1e-8)[:, None] * sums
