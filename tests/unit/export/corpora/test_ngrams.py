"""Kneser–Ney n-grams: their probabilities, and the order that suits a text."""

import math
from collections import Counter

import numpy as np
import pytest

from export.corpora.ngrams import ngram_baseline

VOCABULARY = 5
ALL = np.ones(VOCABULARY, bool)


def markov(length, order, seed=0):
    """Return a random text, each token of which depends on the `order` tokens before it."""
    rng, ids = np.random.default_rng(seed), [0] * order
    weights = np.random.default_rng(1).dirichlet(np.full(VOCABULARY, 0.3), VOCABULARY**order)
    for _ in range(length):
        context = sum(token * VOCABULARY**i for i, token in enumerate(ids[len(ids) - order :]))
        ids.append(int(rng.choice(VOCABULARY, p=weights[context])))
    return np.array(ids[order:], np.uint16)


def loss_by_definition(train, held_out, order):
    """Return the loss by Chen and Goodman's formulas, with a dictionary of each order; -1 precedes both texts."""

    def grams(ids, size):
        padded = [-1] * (size - 1) + ids
        return [tuple(padded[i : i + size]) for i in range(len(ids))]

    levels = []
    for size in range(1, order + 1):
        counts = Counter(grams(train, size))
        if size < order:
            counts = Counter(gram[1:] for gram in set(grams(train, size + 1)))
        n1, n2, n3, n4 = (sum(count == k for count in counts.values()) for k in (1, 2, 3, 4))
        steps = (0.5, 1, 1.5)
        if n1 and n2 and n3 and n4:
            y = n1 / (n1 + 2 * n2)
            found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
            if all(0 < step <= k for k, step in enumerate(found, 1)):
                steps = found
        levels.append((counts, (0.0, *steps)))

    def probability(gram):
        if not gram:
            return 1 / VOCABULARY
        counts, steps = levels[len(gram) - 1]
        of_context = {own: count for own, count in counts.items() if own[:-1] == gram[:-1]}
        if not of_context:
            return probability(gram[1:])
        freed = sum(steps[min(3, count)] for count in of_context.values())
        kept = counts[gram] - steps[min(3, counts[gram])] + freed * probability(gram[1:])
        return kept / sum(of_context.values())

    return -sum(math.log(probability(gram)) for gram in grams(held_out, order)) / len(held_out)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("length", [30, 600])
def test_the_loss_is_that_of_the_definition(monkeypatch, order, length):
    train, held_out = markov(length, 3), markov(60, 3, seed=2)
    expected = [loss_by_definition(train.tolist(), held_out.tolist(), size) for size in range(1, order + 1)]
    monkeypatch.setattr("export.corpora.ngrams.MAX_ORDER", order)
    assert ngram_baseline(train, held_out, ALL)[1] == pytest.approx(min(expected))


def test_the_counts_of_a_repetitive_text_leave_every_token_a_probability():
    """A long passage that occurs four times would give a discount below zero to what occurs three times."""
    rng = np.random.default_rng(2)
    repeats = [(200, 4), (30, 3), (60, 2), (60, 1)]
    train = np.concatenate([np.tile(rng.integers(0, 5, size), times) for size, times in repeats])
    held_out = np.concatenate([train[:60], rng.integers(0, 5, 100)])
    assert math.isfinite(ngram_baseline(train, held_out, ALL)[1])


@pytest.mark.parametrize("order", [1, 2])
def test_the_best_order_is_that_of_the_text(order):
    assert ngram_baseline(markov(20_000, order), markov(2_000, order, seed=2), ALL)[0] == order + 1


def test_tokens_that_are_no_targets_are_not_evaluated():
    """An unknown token counts neither for the loss nor against it, wherever it is in the text."""
    train, held_out = markov(2_000, 1), markov(100, 1, seed=2)
    baseline = ngram_baseline(train, np.append(held_out, VOCABULARY), np.append(ALL, False))
    assert baseline == ngram_baseline(train, held_out, np.append(ALL, False))


def test_of_a_long_text_the_end_is_counted(monkeypatch):
    train, held_out = markov(2_000, 1), markov(100, 1, seed=2)
    monkeypatch.setattr("export.corpora.ngrams.MAX_TOKENS", 500)
    assert ngram_baseline(train, held_out, ALL) == ngram_baseline(train[-500:], held_out, ALL)


def test_of_a_long_validation_split_the_beginning_is_evaluated(monkeypatch):
    """It may be larger than the memory, as the whole text."""
    train, held_out = markov(500, 1), markov(2_000, 1, seed=2)
    monkeypatch.setattr("export.corpora.ngrams.MAX_TOKENS", 500)
    assert ngram_baseline(train, held_out, ALL) == ngram_baseline(train, held_out[:500], ALL)


def test_a_single_token_is_counted():
    _, loss = ngram_baseline(np.array([1]), np.array([1]), ALL)
    assert 0 < loss < math.log(VOCABULARY)
