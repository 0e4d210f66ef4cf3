"""What is sent of a text's counts is what was read and drawn."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.scheduling.penalties import Adjustments

IDS = st.lists(st.integers(0, 9), max_size=30)


def table(adjustments, width=20):
    """Return {id: (count, seen, bias)} of what is written into a row that is wider than needed."""
    ids, columns = np.zeros(width, np.int32), [np.zeros(width, np.float32) for _ in range(3)]
    adjustments.write(ids, *columns)
    assert not any(column[len(adjustments) :].any() for column in columns)
    return {int(ids[i]): tuple(float(column[i]) for column in columns) for i in range(len(adjustments))}


@given(
    bias=st.dictionaries(st.integers(0, 9), st.floats(-100, 100, width=16)), prompt=IDS, drawn=st.lists(IDS, max_size=4)
)
def test_the_list_is_bias_prompt_and_output(bias, prompt, drawn):
    """Each id that was read, drawn or biased stands in it once, with its count in the output alone."""
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


def test_nothing_is_counted_where_it_does_not_matter():
    """A text with a bias alone sends just that, however much it writes."""
    adjustments = Adjustments([(3, 1.0)], np.zeros(0, np.int32), counts=False)
    adjustments.note([1, 2, 3, 4])
    assert table(adjustments) == {3: (0.0, 0.0, 1.0)}
