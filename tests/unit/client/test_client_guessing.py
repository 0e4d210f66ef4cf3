"""Guess numbers that are estimated from a sample, against the ranks of texts whose probabilities are known."""

import math
import random
from itertools import accumulate

import pytest

from sostenuto import GuessNumber, InvalidArgument
from sostenuto._guessing import GuessNumbers
from tests.unit.client.scripted_responses import COMPLETION, answer_json, scores

# Zipf's law over 10,000 texts.
WEIGHTS = [1 / rank for rank in range(1, 10_001)]
TOTAL = sum(WEIGHTS)
LOGPROBS = [math.log(weight / TOTAL) for weight in WEIGHTS]


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


def test_the_most_probable_text_is_guessed_first_and_those_beyond_the_sample_last(guesses):
    first, *last = (guesses.of("text", logprob) for logprob in (LOGPROBS[0], -100.0, -1000.0))
    assert (first.value, first.standard_error) == (0, 0)
    assert last[0].value == last[1].value == pytest.approx(10_000, rel=0.2)


def test_texts_of_hundreds_of_tokens_have_guess_numbers():
    """1/p² of such a text exceeds a float, and 1/p of one twice as long."""
    guesses = GuessNumbers([-1.0, -400.0, -399.0, -800.0], 4)
    assert guesses.of("a", -399.5).value == pytest.approx((math.e + math.exp(399)) / 4)
    found = guesses.of("b", -500.0)
    assert found.value == pytest.approx((math.exp(399) + math.exp(400)) / 4)
    ratio = math.exp(-1)
    variance = (1 + ratio**2) / 4 - ((1 + ratio) / 4) ** 2
    assert found.standard_error == pytest.approx(math.exp(400) * math.sqrt(variance / 4))
    assert guesses.of("c", -900.0).value == math.inf
    # e^710 exceeds a float; a thousandth of it does not.
    assert GuessNumbers([-710.0], 1000).of("a", -711.0).value == pytest.approx(math.exp(710 - math.log(1000)))


def test_the_client_samples_a_version_once(client, server):
    """Its texts that have not ended are no whole texts: they only count."""
    model = answer_json({"id": "list", "object": "model", "version": 3, "versions": []})
    texts = [("a", "stop"), ("b", "stop"), ("a", "stop"), ("cc", "length")]
    choices = [{"index": i, "text": text, "finish_reason": reason} for i, (text, reason) in enumerate(texts)]
    sample = answer_json({**COMPLETION, "choices": choices})
    quarter, half = -math.log(0.25), -math.log(0.5)
    server.script = [model, sample, scores(half, quarter, half), scores(9.0, quarter), model, scores(quarter)]
    found = client.guess_numbers(["x", "b"], model="list", num_samples=4, max_tokens=2, seed=5)
    assert [(guess.text, guess.value) for guess in found] == [("x", pytest.approx(2)), ("b", pytest.approx(1))]
    assert found[1] == GuessNumber("b", -quarter, pytest.approx(1), pytest.approx(0.5))
    assert client.guess_numbers(["b"], model="list", num_samples=4, max_tokens=2, seed=5) == [found[1]]
    assert server.bodies[1] == {"model": "list:3", "prompt": "", "n": 4, "max_tokens": 2, "seed": 5}
    assert [body["input"] for body in server.bodies[2:4]] == [["a", "b", "a"], ["x", "b"]]
    assert all(body["whole"] is True for body in server.bodies[2:4])


def test_a_model_without_ends_has_no_guess_numbers(client, server):
    model = answer_json({"id": "book", "object": "model", "version": 1, "versions": []})
    server.script = [model, answer_json(COMPLETION)]
    with pytest.raises(InvalidArgument, match="no text of book:1 ends within 64 tokens"):
        client.guess_numbers(["a"], model="book", num_samples=1)
