"""Adjustments are logit bias and the token counts of the text."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.logit_adjustments import Adjustments

IDS = st.lists(st.integers(0, 9), max_size=30)


def table(adjustments, width=20):
    """Return {id: (count, seen, bias)} of what is written into arrays that are larger than needed."""
    ids, columns = np.zeros(width, np.int32), [np.zeros(width, np.float32) for _ in range(3)]
    adjustments.write(ids, *columns)
    assert not any(column[len(adjustments) :].any() for column in columns)
    return {int(ids[i]): tuple(float(column[i]) for column in columns) for i in range(len(adjustments))}


@given(
    bias=st.dictionaries(st.integers(0, 9), st.floats(-100, 100, width=16)), prompt=IDS, drawn=st.lists(IDS, max_size=4)
)
def test_each_biased_prompt_or_output_token_is_listed_once(bias, prompt, drawn):
    adjustments = Adjustments(bias.items(), np.array(prompt, np.int32), counts=True)
    for chunk in drawn:
        adjustments.note(chunk)
    output = [token_id for chunk in drawn for token_id in chunk]
    counts = Counter(output)
    expected = {
        i: (float(counts[i]), float(i in prompt or i in output), float(np.float32(bias.get(i, 0.0))))
        for i in {*bias, *prompt, *output}
    }
    assert table(adjustments) == expected


def test_without_penalties_only_the_logit_bias_is_listed():
    """The list does not grow with the output."""
    adjustments = Adjustments([(3, 1.0)], np.zeros(0, np.int32), counts=False)
    adjustments.note([1, 2, 3, 4])
    assert table(adjustments) == {3: (0.0, 0.0, 1.0)}
