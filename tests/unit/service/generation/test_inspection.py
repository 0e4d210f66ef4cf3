"""Inspection: values and logprobs by token and unit, after a resumed state, in reading order."""

import numpy as np
import pytest

from service.api.requests import InspectRequest
from service.context import RequestContext
from service.errors import InvalidRequest, StateRefused
from service.generation.hidden_states import evenly_spaced
from tests.fakes import STATE_SIZE, states_after
from tests.unit.service.engines import CHARACTERS, SETTINGS, Service, parsed


def looked_into(service, given, **fields):
    body = parsed(InspectRequest, **{"input": given, "logprobs": 2, **fields})
    builder = service.engine.start_inspection(body, RequestContext())
    try:
        return builder.result()
    finally:
        builder.request.close()


def hidden(found):
    return found["layers"][0]["values"]["hidden"]


def logprobs(found):
    return {name: found[name] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}


TEXT = "thecatsatonthematandthedog"


def test_every_token_has_its_values_and_logprobs(service):
    found = looked_into(service, TEXT)
    ids = CHARACTERS.encode(TEXT)
    (layer,) = found["layers"]
    assert (layer["layer"], layer["units"], [*layer["values"]]) == (1, list(range(STATE_SIZE)), ["hidden"])
    np.testing.assert_array_equal(hidden(found), states_after(ids)[1:])
    assert found["positions"] == list(range(len(ids)))
    assert (found["token_ids"], found["tokens"]) == (ids, list(TEXT))
    (echoed,) = service.results(TEXT, echo=True, logprobs=2, max_tokens=0)
    assert logprobs(found) == vars(echoed.logprobs)
    assert len(found["expected"]) == 2
    assert "state" not in layer
    assert {call.signature for call in service.backend.calls} == {"inspect", "score"}


@pytest.mark.parametrize(("backward", "go_backwards"), [(True, False), (False, True), (True, True)])
def test_values_of_a_text_read_backward_are_in_reading_order(service, backward, go_backwards):
    """The state of a token covers the tokens after it. A backward model with `go_backwards` reads forward."""
    model = "characters backward" if backward else "characters"
    found = looked_into(service, TEXT, model=model, go_backwards=go_backwards)
    ids = CHARACTERS.encode(TEXT)
    expected = states_after(ids)[1:] if backward and go_backwards else states_after(ids[::-1])[:0:-1]
    np.testing.assert_array_equal(hidden(found), expected)
    assert found["tokens"] == list(TEXT)
    assert found["token_logprobs"].index(None) == (0 if backward and go_backwards else len(ids) - 1)


@pytest.mark.parametrize("model", ["words", "words backward"])
@pytest.mark.parametrize("go_backwards", [False, True])
def test_an_expected_word_has_its_space_on_the_side_of_the_text(service, model, go_backwards):
    found = looked_into(service, "a mat", model=model, go_backwards=go_backwards, logprobs=3)
    is_backward = ("backward" in model) != go_backwards
    assert [*found["expected"]][2] == ("the " if is_backward else " the")


def test_return_sequences_off_returns_the_token_read_last(service):
    ids = CHARACTERS.encode(TEXT)
    for go_backwards, place, read in ((False, len(ids) - 1, ids), (True, 0, ids[::-1])):
        found = looked_into(service, TEXT, return_sequences=False, go_backwards=go_backwards, max_positions=1)
        assert found["positions"] == [place]
        np.testing.assert_array_equal(hidden(found), states_after(read)[-1:])
        assert len(found["tokens"]) == len(ids)


def test_return_state_returns_every_unit_whatever_is_included(service):
    found = looked_into(service, TEXT, return_state=True, max_units=1, max_positions=1, include=())
    (layer,) = found["layers"]
    assert (layer["layer"], layer["units"], layer["values"]) == (1, [], {})
    np.testing.assert_array_equal(layer["state"]["hidden"], states_after(CHARACTERS.encode(TEXT))[-1])


def test_positions_are_evenly_spaced_from_the_first_to_the_last():
    assert [evenly_spaced(5, most).tolist() for most in (None, 5, 2, 1)] == [[0, 1, 2, 3, 4]] * 2 + [[0, 4], [0]]
    assert (evenly_spaced(9, 3).tolist(), evenly_spaced(0, 3).tolist()) == ([0, 4, 8], [])


def test_max_positions_and_max_units_only_select_values(service):
    whole = looked_into(service, TEXT)
    some = looked_into(service, TEXT, max_positions=7, max_units=2)
    units = some["layers"][0]["units"]
    assert (len(some["positions"]), units) == (7, [0, STATE_SIZE - 1])
    np.testing.assert_array_equal(hidden(some), hidden(whole)[some["positions"]][:, units])
    assert logprobs(some) == logprobs(whole)


def test_units_are_selected_by_number(service):
    whole = looked_into(service, TEXT)
    for units, most, kept in (([3, 0], None, [3, 0]), ([3, 0, 1], 2, [3, 1])):
        some = looked_into(service, TEXT, units=units, max_units=most)
        assert some["layers"][0]["units"] == kept
        np.testing.assert_array_equal(hidden(some), hidden(whole)[:, kept])


def test_input_is_read_after_a_resumed_state(service):
    (first,) = Service.results(service, "abc", max_tokens=5, return_state=True)
    found = looked_into(service, "xyz", state=first.resume_token, model=None)
    drawn = CHARACTERS.encode("abc" + first.text)
    expected = states_after(CHARACTERS.encode("xyz"), states_after(drawn)[-1])[1:]
    np.testing.assert_array_equal(hidden(found), expected)
    assert found["token_logprobs"][0] is not None
    assert found["tokens"] == list("xyz")
    with pytest.raises(StateRefused, match="state must be of model 'words'"):
        looked_into(service, "xyz", state=first.resume_token, model="words")


def test_empty_input_has_no_values_but_expected_tokens(service):
    found = looked_into(service, "")
    assert (found["token_ids"], found["positions"], hidden(found).shape) == ([], [], (0, STATE_SIZE))
    assert len(found["expected"]) == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (2,)}, "layers of model 'characters' are 1, got 2"),
        ({"units": [0, STATE_SIZE]}, "units of layer 1 must be at most 3, got 4"),
        ({"given": [99999]}, "input must have token ids below 50, got 99999"),
        ({"given": "x" * 40}, r"at most 150 values \(positions × values per position\), got 160; .* max_positions"),
    ],
)
def test_an_unknown_layer_unit_or_token_and_too_many_values_are_refused(service, fields, message):
    service.engine._settings = SETTINGS.model_copy(update={"max_inspect_values": 150})
    with pytest.raises(InvalidRequest, match=message):
        looked_into(service, **{"given": "abc", **fields})
    assert looked_into(service, "x" * 40, max_positions=37)["positions"][-1] == 39
