"""Uniforms are a function of seed, choice and position; adjustments are logit bias and the token counts of the text."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.sampling_inputs import Adjustments, uniforms
from tests.fakes import make_sequence

IDS = st.lists(st.integers(0, 9), max_size=30)


@pytest.mark.parametrize("first", [0, 1, 2, 3, 4, 5, 255, 1001])
def test_a_position_has_the_same_uniform_whatever_the_first_position(first):
    assert np.array_equal(uniforms(9, 1, first, 40), uniforms(9, 1, 0, first + 40)[first:])


@pytest.mark.parametrize("seed", [5, -1, 2**62])
def test_uniforms_are_those_of_philox(seed):
    """The top 24 bits of NumPy's Philox with key (seed, choice), from counter 0 on; never 1."""
    raw = np.random.Philox(key=np.array([seed % 2**64, 2], np.uint64), counter=0).random_raw(8)
    found = uniforms(seed, 2, 0, 8)
    assert (found.dtype, found.tolist()) == (np.float32, [(word >> 40) / 2**24 for word in raw.tolist()])


@pytest.mark.parametrize("counts", [[1] * 600, [16] * 40, [4, 32, 1, 700, 16]], ids=["ones", "sixteens", "mixed"])
def test_a_sequence_that_generates_ahead_has_the_same_uniforms(counts):
    sequence, drawn = make_sequence(seed=3, random_stream=1, num_sampled_before=7), []
    for count in counts:
        drawn += sequence.uniforms(count).tolist()
        sequence.num_generated += count
    assert drawn == uniforms(3, 1, 7, sequence.num_generated).tolist()


def test_a_sequence_can_return_to_an_earlier_position():
    """A call that is retried gets the uniforms that it had the first time."""
    sequence = make_sequence(num_generated=100)
    first = sequence.uniforms(16).tolist()
    sequence.num_generated = 500
    sequence.uniforms(16)
    sequence.num_generated = 100
    assert sequence.uniforms(16).tolist() == first


def table(adjustments, width=20):
    """Return {id: (count, seen, bias)} of what is written into arrays that are larger than needed."""
    ids, columns = np.zeros(width, np.int32), [np.zeros(width, np.float32) for _ in range(3)]
    adjustments.write(ids, *columns)
    assert not any(column[len(adjustments) :].any() for column in columns)
    return {int(ids[i]): tuple(float(column[i]) for column in columns) for i in range(len(adjustments))}


@given(bias=st.dictionaries(st.integers(0, 9), st.floats(-9, 9, width=16)), prompt=IDS, drawn=st.lists(IDS, max_size=4))
def test_each_biased_prompt_or_output_token_is_listed_once(bias, prompt, drawn):
    adjustments = Adjustments(bias.items(), np.array(prompt, np.int32), counts=True)
    for chunk in drawn:
        adjustments.note(chunk)
    output = [token_id for chunk in drawn for token_id in chunk]
    counts = Counter(output)
    seen = {*prompt, *output}
    assert table(adjustments) == {i: (counts[i], i in seen, np.float32(bias.get(i, 0.0))) for i in {*bias, *seen}}


def test_without_penalties_only_the_logit_bias_is_listed():
    adjustments = Adjustments([(3, 1.0)], np.zeros(0, np.int32), counts=False)
    adjustments.note([1, 2, 3, 4])
    assert table(adjustments) == {3: (0.0, 0.0, 1.0)}
