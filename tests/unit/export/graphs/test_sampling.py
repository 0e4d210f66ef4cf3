"""Sampled tokens follow the requested distribution, at every edge of the parameters."""

import numpy as np
import pytest
import tensorflow as tf

from export.graphs import sampling, signatures
from export.graphs.sampling import Controls, prepare, sample

LOGITS = np.log(np.array([0.05, 0.4, 0.1, 0.25, 0.2], np.float32))


@pytest.fixture(
    params=[sampling.NUM_CANDIDATES, (2,), (1, 3)], ids=["all sorted at once", "few first", "in steps"], autouse=True
)
def num_candidates(request, monkeypatch):
    """Sort all tokens at once, or only the most probable ones where they are enough."""
    monkeypatch.setattr(sampling, "NUM_CANDIDATES", request.param)


def draw(uniforms, logits=LOGITS, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """Sample one token for each uniform."""
    rows = len(uniforms)
    controls = Controls(
        tf.fill([rows], float(temperature)),
        tf.fill([rows], top_k),
        tf.fill([rows], float(top_p)),
        tf.fill([rows], min_p),
    )
    return sample_once(np.tile(logits, (rows, 1)), np.float32(uniforms), controls).tolist()


def sample_once(logits, uniforms, controls):
    """Sample in the first step of a call."""
    prepared = prepare(Controls(*map(tf.constant, controls)), tf.constant(uniforms[:, None]))
    return sample(tf.constant(0), tf.constant(logits), prepared).numpy()


def shares(**controls):
    """Return the share of each token over evenly spaced uniforms."""
    uniforms = (np.arange(2000) + 0.5) / 2000
    return np.bincount(draw(uniforms, **controls), minlength=5) / 2000


@pytest.mark.parametrize("vocab_size", [64, 65, 98])
def test_weights_and_log_probabilities_of_four_sequences_are_bit_exact_with_those_of_eight(vocab_size):
    logits = np.random.default_rng(0).normal(0, 3, (160, vocab_size)).astype(np.float32)

    def bits(batch_size):
        batches = [tf.constant(batch) for batch in np.split(logits, 160 // batch_size)]
        padding = signatures._row_padding(tf.constant(batch_size))
        weights = [sampling._weights(batch, tf.fill([batch_size, 1], 1.25))[:, :vocab_size] for batch in batches]
        logprobs = [signatures._log_softmax(batch, padding)[:batch_size] for batch in batches]
        return tf.concat(weights, 0).numpy().tobytes(), tf.concat(logprobs, 0).numpy().tobytes()

    assert bits(4) == bits(8)


def test_unfiltered_sampling_follows_the_probabilities():
    np.testing.assert_allclose(shares(), np.exp(LOGITS), atol=2e-3)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_raises_probabilities_to_its_inverse(temperature):
    expected = np.exp(LOGITS / temperature)
    np.testing.assert_allclose(shares(temperature=temperature), expected / expected.sum(), atol=2e-3)


@pytest.mark.parametrize("temperature", [0.0, 1e-37, 1e-5])
def test_temperature_near_0_is_greedy(temperature):
    assert set(draw([0.0, 0.3, 0.999999], temperature=temperature)) == {1}


@pytest.mark.parametrize("controls", [{}, {"top_p": 0.9}], ids=str)
def test_the_first_of_equal_logits_is_greedy(controls):
    logits = np.float32([0.0, 2.0, 1.0, 2.0, 2.0])
    assert set(draw([0.0, 0.5, 0.999999], logits=logits, temperature=0.0, **controls)) == {1}


@pytest.mark.parametrize(
    ("controls", "kept"),
    [
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 0.0}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.5}, [1, 3]),
        ({"top_p": 0.8}, [1, 3, 4]),
        ({"top_p": 0.94}, [1, 2, 3, 4]),
        ({"min_p": 1.0}, [1]),
        ({"min_p": 0.49}, [1, 3, 4]),
        ({"min_p": 0.24}, [1, 2, 3, 4]),
        ({"top_k": 3, "top_p": 0.5}, [1, 3]),
        ({"top_k": 2, "top_p": 0.7}, [1, 3]),
        ({"top_k": 2, "top_p": 0.6}, [1]),
    ],
    ids=str,
)
def test_filters_keep_the_expected_tokens_in_proportion(controls, kept):
    """The kept tokens' probabilities are renormalized; other tokens are never sampled."""
    expected = np.where(np.isin(np.arange(5), kept), np.exp(LOGITS), 0)
    np.testing.assert_allclose(shares(**controls), expected / expected.sum(), atol=2e-3)


def test_top_k_of_equal_logits_keeps_exactly_k():
    assert len(set(draw(np.linspace(0, 0.999, 50), logits=np.zeros(5, np.float32), top_k=2))) == 2


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("controls", [{}, {"top_k": 2}, {"top_p": 0.5}], ids=str)
def test_the_smallest_and_largest_uniform_sample_possible_tokens(uniform, controls):
    logits = np.array([-1e9, -1e9, 0.0, 1.0, -1e9], np.float32)
    for temperature in (1e-3, 1.0, 2.0):
        assert set(draw([uniform], logits=logits, temperature=temperature, **controls)) <= {2, 3}


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_extreme_logits_give_valid_token_ids(scale):
    for temperature in (1e-4, 1.0, 2.0):
        for token in draw([0.0, 0.5, 0.999], logits=LOGITS * scale, temperature=temperature):
            assert 0 <= token < 5


def test_a_sequence_does_not_depend_on_the_parameters_of_others():
    rng = np.random.default_rng(0)
    rows = 24
    logits = rng.normal(0, 1, (rows, 50)).astype(np.float32)
    uniforms = rng.random(rows, dtype=np.float32)
    controls = Controls(
        np.ones(rows, np.float32),
        rng.choice([0, 1, 2, 3, 40, 60], rows).astype(np.int32),
        rng.choice([0.1, 0.5, 0.99, 1.0], rows).astype(np.float32),
        rng.choice([0.0, 0.05, 0.5], rows).astype(np.float32),
    )
    together = sample_once(logits, uniforms, controls)
    alone = [
        sample_once(logits[[row]], uniforms[[row]], Controls(*(each[[row]] for each in controls)))[0]
        for row in range(rows)
    ]
    assert together.tolist() == alone


def test_the_number_of_candidates_changes_no_token(monkeypatch):
    """Filters that keep few tokens, many or all give those that sorting all gives."""
    rng = np.random.default_rng(1)
    uniforms = rng.random(200, dtype=np.float32)
    for scale in (0.1, 1.0, 4.0):
        logits = rng.normal(0, scale, 50).astype(np.float32)
        for filters in ({"top_k": 2}, {"top_k": 30}, {"top_p": 0.3}, {"top_p": 0.999}, {"min_p": 0.2}, {"min_p": 1e-6}):
            tokens = draw(uniforms, logits, **filters)
            with monkeypatch.context() as patch:
                patch.setattr(sampling, "NUM_CANDIDATES", ())
                assert tokens == draw(uniforms, logits, **filters), filters
