"""Uniforms are a function of seed, choice and position."""

import numpy as np
import pytest

from service.scheduling.random_numbers import UniformStream, uniforms


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 255, 1001])
def test_a_position_has_the_same_uniform_whatever_the_first_position(first):
    """A slice from any position on is that part of the whole stream."""
    assert np.array_equal(uniforms(9, 1, first, 40), uniforms(9, 1, 0, first + 40)[first:])


@pytest.mark.parametrize("seed", [5, -1, 2**62])
def test_uniforms_are_those_of_philox(seed):
    """The top 24 bits of NumPy's Philox with key (seed, choice), from counter 0 on; never 1."""
    raw = np.random.Philox(key=np.array([seed % 2**64, 2], np.uint64), counter=0).random_raw(8)
    found = uniforms(seed, 2, 0, 8)
    assert (found.dtype, found.tolist()) == (np.float32, [(word >> 40) / 2**24 for word in raw.tolist()])


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
