"""A call's outputs become the events of its sequences; an invalid output fails its own sequence alone."""

import numpy as np
import pytest

from service.errors import InternalError
from service.scheduling import sampling_inputs
from service.scheduling.call import Call
from service.scheduling.sequence import ModelVersion
from tests.fakes import COMPUTE, make_sequence

MODEL = ModelVersion("demo", 3)
WIDTH = 4


def sequences(signature):
    """Return two sequences for a call of a signature."""
    fields = {"state": np.zeros(WIDTH, np.float32), "num_top": 5}
    if not signature.startswith("decode"):
        fields |= {"prompt_ids": np.arange(1, 6, dtype=np.int32), "prefill_signature": signature, "max_tokens": 0}
        fields |= {"returns_state": True}
    if signature == "embed":
        fields["hidden_sum"] = np.zeros(WIDTH, np.float32)
    if signature == "inspect":
        fields["requested_activations"] = (("hidden_1", WIDTH),)
    return tuple(make_sequence(**fields, index=index) for index in range(2))


@pytest.mark.parametrize(
    ("signature", "output"),
    [
        ("prefill", "state"),
        ("decode", "state"),
        ("decode_full", "logprobs"),
        ("decode_full", "top_logprobs"),
        ("score", "logprobs"),
        ("score", "top_logprobs"),
        ("embed", "sum"),
        ("embed", "last"),
        ("inspect", "hidden_1"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_in_any_output_fails_its_own_sequence_alone(signature, output, value):
    call = Call(MODEL, signature, sequences(signature), 8, 4)
    outputs = COMPUTE[signature](call.inputs())
    outputs[output][1].flat[0] = value
    well, failed = call.apply(outputs)
    assert well.error is None
    assert isinstance(failed.error, InternalError)
    assert str(failed.error) == "the model computed NaN or infinity"


def test_automata_share_a_call_as_far_as_its_table_has_room(monkeypatch):
    monkeypatch.setattr(sampling_inputs, "MAX_SHARED_ENTRIES", 100)
    tables = [np.zeros((rows, 10), np.int32) for rows in (6, 4, 3, 11)]
    automata = [sampling_inputs.Automaton(table, *[np.zeros(0, np.int32)] * 3) for table in tables]
    large, medium, small, huge = map(sampling_inputs.Match, automata)
    assert sampling_inputs.fit_into_table([None, large, medium, large, small]) == [True, True, True, True, False]
    assert sampling_inputs.fit_into_table([huge, small]) == [True, False]
