"""Interventions: the state changes before each token that is generated, and for no other sequence."""

from dataclasses import replace

import numpy as np
import pytest

from service.context import RequestContext
from service.errors import InvalidRequest
from service.scheduling.sampling_inputs import uniforms
from service.scheduling.sequence import ModelVersion
from tests.fakes import VOCABULARY, fake_step, states_after
from tests.unit.service.engines import CHARACTERS, Models, request

SET = [{"layer": 1, "unit": 2, "set": 5.0}]


def generated(prompt, count, change, seed=1):
    """Return the text that the fake model generates from a prompt if its state is changed before each step."""
    *read, last = CHARACTERS.encode(prompt)
    state, ids = states_after(read)[-1], []
    for uniform in uniforms(seed, 0, 0, count):
        state = state.copy()
        change(state)
        state = fake_step(last, state)
        last = int(state.sum() + uniform * 1000) % VOCABULARY
        ids.append(last)
    return CHARACTERS.decode(ids)


def set_to_5(state):
    state[2] = 5.0


def double(state):
    state[0] = min(2 * state[0], 1000.0)


@pytest.mark.parametrize(
    ("interventions", "change"),
    [
        (SET, set_to_5),
        ([{"layer": 1, "unit": 2, "kind": "hidden", "set": 5.0}], set_to_5),
        ([{"layer": 1, "unit": 0, "scale": 2.0}], double),
        ([{"layer": 1, "unit": 3, "set": 0}, *SET], lambda state: (set_to_5(state), np.put(state, 3, 0.0))),
    ],
)
def test_the_state_changes_before_each_step(service, interventions, change):
    text = generated("abc", 12, change)
    assert [each.text for each in service.results("abc", interventions=interventions)] == [text]
    assert text != generated("abc", 12, lambda state: None)


def test_other_sequences_keep_their_text_and_their_steps(service):
    (plain,) = service.results("abc")
    num_calls = len(service.backend.calls)
    service.results("abc", interventions=SET, n=3)
    steps = [call.size for call in service.backend.calls[num_calls:] if call.is_decode]
    assert set(steps) == {1}
    (again,) = service.results("abc")
    assert again.text == plain.text


def test_a_call_never_mixes_sequences_with_and_without_interventions(service):
    bodies = [request("abc", max_tokens=40, **fields) for fields in ({}, {"interventions": SET}, {"seed": 5})]
    running = [service.engine.start_completion(body, RequestContext()) for body in bodies]
    for each in running:
        each.results()
        each.request.close()
    kinds = [{sequence.interventions is None for sequence in call.sequences} for call in service.backend.calls]
    assert all(len(kind) == 1 for kind, call in zip(kinds, service.backend.calls, strict=True) if call.is_decode)


def test_the_prefix_cache_keeps_no_changed_state(start_service):
    """Another request with the same text as its prompt reads it."""
    service = start_service(prefix_cache_bytes=10**6)
    (changed,) = service.results("abc", interventions=SET, max_tokens=20)
    assert changed.finish_reason == "length", "choose another seed"
    prompt = "abc" + changed.text
    (cached,) = service.results(prompt)
    assert cached.text == generated(prompt, 12, lambda state: None)


def test_a_resume_token_continues_with_the_interventions_that_the_request_has(service):
    (whole,) = service.results("abc", interventions=SET, max_tokens=24)
    (first,) = service.results("abc", interventions=SET, max_tokens=12, return_state=True)
    (rest,) = service.results("", state=first.resume_token, interventions=SET, max_tokens=12, seed=None)
    assert first.text + rest.text == whole.text
    (plain,) = service.results("", state=first.resume_token, max_tokens=12, seed=None)
    assert plain.text != rest.text


@pytest.mark.parametrize(
    ("interventions", "message"),
    [
        ([{"layer": 1, "unit": 0}], "interventions[0] must have either set or scale"),
        ([*SET, {"layer": 1, "unit": 0, "set": 1, "scale": 1}], "interventions[1] must have either set or scale"),
        ([{"layer": 2, "unit": 0, "set": 1}], "interventions[0].layer must be at most 1, got 2"),
        ([{"layer": 1, "unit": 4, "set": 1}], "interventions[0].unit must be below 4 in layer 1, got 4"),
        ([{**SET[0], "kind": "cell"}], "interventions[0].kind must be hidden in layer 1, got cell"),
        ([*SET, *SET], "interventions[1] must be of another unit than interventions[0]"),
        (SET * 65, "interventions must have at most 64 items, got "),
        ([{"layer": 1, "unit": 0, "set": 101}], "interventions[0].set must be less than or equal to 100, got 101"),
    ],
)
def test_interventions_that_cannot_be_are_refused(service, interventions, message):
    with pytest.raises(InvalidRequest) as caught:
        service.results("abc", interventions=interventions)
    assert str(caught.value).startswith(message)
    assert caught.value.param.partition("[")[0] == "interventions"


def test_a_sliding_window_model_has_no_units_to_change(service, monkeypatch):
    found = Models().find("characters")
    window = found.card.model_copy(update={"activations": (), "context": 8})
    model = replace(found, ref=ModelVersion("w", 1), card=window)
    monkeypatch.setattr(Models, "find", lambda *_, **__: model)
    with pytest.raises(InvalidRequest, match="interventions must be absent for model 'w': a sliding-window model has"):
        service.results("abc", interventions=SET)
