"""Uniforms are a function of seed, choice and position, and of nothing else."""

import numpy as np
import pytest

from service.scheduling.random_numbers import UniformStream, uniforms


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 255, 1001])
def test_a_position_has_one_uniform_wherever_drawing_begins(first):
    """Drawing from the middle gives the numbers that drawing from the beginning gives."""
    assert np.array_equal(uniforms(9, 1, first, 40), uniforms(9, 1, 0, first + 40)[first:])


def test_uniforms_are_those_of_philox():
    """The numbers are the top 24 bits of NumPy's Philox with key (seed, choice), from counter 0 on."""
    raw = np.random.Philox(key=np.array([5, 2], np.uint64), counter=0).random_raw(8)
    assert uniforms(5, 2, 0, 8).tolist() == [(word >> 40) / 2**24 for word in raw.tolist()]


def test_other_seeds_and_other_choices_have_other_numbers():
    """Seed and choice are both part of the key, and cannot be traded for each other."""
    drawn = [tuple(uniforms(seed, choice, 0, 4)) for seed in (-1, 0, 1, 2**62) for choice in (0, 1, 2)]
    assert len(set(drawn)) == len(drawn)


def test_uniforms_are_evenly_spread_and_below_one():
    """Mean and range are a uniform distribution's; 1 is never reached."""
    drawn = uniforms(1, 0, 0, 200_000)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(float(drawn.mean()) - 0.5) < 0.005


@pytest.mark.parametrize("counts", [[1] * 600, [16] * 40, [4, 32, 1, 700, 16]], ids=["ones", "sixteens", "mixed"])
def test_drawing_ahead_changes_nothing(counts):
    """A stream gives the same numbers in pieces of any size."""
    stream, position, drawn = UniformStream(3, 1), 0, []
    for count in counts:
        drawn += stream.take(position, count).tolist()
        position += count
    assert drawn == uniforms(3, 1, 0, position).tolist()


def test_a_stream_can_go_back():
    """A call that is repeated gets the numbers that it had the first time."""
    stream = UniformStream(3, 0)
    first = stream.take(100, 16).tolist()
    stream.take(500, 16)
    assert stream.take(100, 16).tolist() == first
