"""Guess numbers that are estimated from a sample, against the ranks of texts whose probabilities are known."""

import math
import random
from itertools import accumulate

import pytest

from sostenuto._guessing import GuessNumbers

# Zipf's law over 10,000 texts.
WEIGHTS = [1 / rank for rank in range(1, 10_001)]
LOGPROBS = [math.log(weight / sum(WEIGHTS)) for weight in WEIGHTS]


@pytest.fixture(scope="module")
def guesses():
    cumulative = list(accumulate(WEIGHTS))
    return GuessNumbers(random.Random(1).choices(LOGPROBS, cum_weights=cumulative, k=20_000), 20_000)


@pytest.mark.parametrize("rank", [1, 2, 10, 100, 1000, 9000])
def test_the_estimate_is_the_rank_within_its_standard_error(guesses, rank):
    guess = guesses.of("text", LOGPROBS[rank - 1])
    assert (guess.text, guess.logprob) == ("text", LOGPROBS[rank - 1])
    assert abs(guess.value - (rank - 1)) <= 4 * guess.standard_error
    assert guess.standard_error < 0.1 * rank


def test_the_most_probable_text_is_guessed_first(guesses):
    guess = guesses.of("text", LOGPROBS[0])
    assert (guess.value, guess.standard_error) == (0, 0)


def test_a_text_that_is_less_probable_than_the_sample_has_the_highest_number(guesses):
    assert guesses.of("text", -100.0).value == pytest.approx(10_000, rel=0.2)
    assert guesses.of("text", -100.0).value == guesses.of("text", -1000.0).value
