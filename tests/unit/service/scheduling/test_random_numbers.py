"""Uniforms are a function of seed, choice and position, and of nothing else."""

import numpy as np
import pytest

from service.scheduling.sampling import UniformStream, uniforms


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 255, 1001])
def test_a_position_has_the_same_uniform_whatever_the_first_position(first):
    """A slice from any position on is that part of the whole stream."""
    assert np.array_equal(uniforms(9, 1, first, 40), uniforms(9, 1, 0, first + 40)[first:])


def test_uniforms_are_those_of_philox():
    """The top 24 bits of NumPy's Philox with key (seed, choice), from counter 0 on."""
    raw = np.random.Philox(key=np.array([5, 2], np.uint64), counter=0).random_raw(8)
    assert uniforms(5, 2, 0, 8).tolist() == [(word >> 40) / 2**24 for word in raw.tolist()]


def test_different_seeds_and_choices_have_different_uniforms():
    """Both are part of the key, and cannot be exchanged for each other."""
    drawn = [tuple(uniforms(seed, choice, 0, 4)) for seed in (-1, 0, 1, 2**62) for choice in (0, 1, 2)]
    assert len(set(drawn)) == len(drawn)


def test_uniforms_are_float32_in_0_to_1_exclusive_with_mean_one_half():
    """Over 200,000 numbers; sampling requires that 1 is never reached."""
    drawn = uniforms(1, 0, 0, 200_000)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.005


@pytest.mark.parametrize("counts", [[1] * 600, [16] * 40, [4, 32, 1, 700, 16]], ids=["ones", "sixteens", "mixed"])
def test_a_stream_that_computes_ahead_has_the_same_uniforms(counts):
    """`UniformStream` buffers them; whatever is requested at a time, the numbers stay the same."""
    stream, position, drawn = UniformStream(3, 1), 0, []
    for count in counts:
        drawn += stream.take(position, count).tolist()
        position += count
    assert drawn == uniforms(3, 1, 0, position).tolist()


def test_a_stream_can_return_to_an_earlier_position():
    """A call that is retried gets the uniforms that it had the first time."""
    stream = UniformStream(3, 0)
    first = stream.take(100, 16).tolist()
    stream.take(500, 16)
    assert stream.take(100, 16).tolist() == first
