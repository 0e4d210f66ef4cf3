"""How responses become results: `Generation`, `Choice`, `Usage` and `Model`."""

import pytest

from sostenuto import Choice, Generation, Model, SostenutoError, UnexpectedResponse, Usage
from tests.unit.client.scripted_responses import COMPLETION


def test_a_generation_has_every_field_of_the_response():
    generation = Generation.from_response(COMPLETION)
    fields = {"id": "cmpl-1", "model": "tiny", "seed": 7, "system_fingerprint": "fp-1", "usage": Usage(1, 3, 4)}
    assert generation == Generation(**fields, choices=(Choice(0, " upon a time", "length"),), raw={})
    assert generation.raw is COMPLETION
    assert (str(generation), generation.text, generation.finish_reason) == (" upon a time", " upon a time", "length")


def test_the_repr_is_one_line_with_a_truncated_text():
    assert repr(Generation.from_response(COMPLETION)) == (
        "Generation(text=' upon a time', finish_reason='length', model='tiny', seed=7, completion_tokens=3)"
    )
    choices = [{"index": index, "text": "x" * 1000, "finish_reason": "stop"} for index in range(3)]
    shown = repr(Generation.from_response({"choices": choices}))
    assert "xxx…'" in shown
    assert "num_choices=3" in shown
    assert len(shown) < 200


def test_choices_are_sorted_by_index():
    choices = [{"index": index, "text": str(index), "finish_reason": "stop"} for index in (2, 0, 1)]
    generation = Generation.from_response({"choices": choices})
    assert [choice.index for choice in generation.choices] == [0, 1, 2]
    assert generation.text == "0"


def test_another_choice_is_not_taken_for_the_first_before_that_begins():
    generation = Generation.from_response(
        {"choices": [{"index": 1, "text": "b", "finish_reason": "stop", "state": "s"}]}
    )
    assert (generation.text, generation.state, generation.finish_reason) == ("", None, None)
    error = SostenutoError("lost")
    error.choices = generation.choices
    assert (error.text, error.state) == ("", None)


def test_optional_fields_may_be_missing():
    generation = Generation.from_response({"choices": []})
    assert (generation.id, generation.seed, generation.usage) == ("", None, None)
    assert (generation.text, generation.finish_reason) == ("", None)


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({}, "choices"),
        ({"choices": None}, "choices"),
        ({"choices": [7]}, "index"),
        ({"choices": [{"index": 0, "text": None}]}, "text"),
    ],
)
def test_a_malformed_response_raises_an_error_that_names_the_field(answer, field):
    with pytest.raises(UnexpectedResponse, match=f"'{field}' should be of type .* base_url"):
        Generation.from_response(answer)


def test_a_model_has_the_entrys_fields_as_attributes_and_prints_as_its_id():
    known = {"id": "tiny", "created": 5, "version": 3, "cell": "lstm", "layers": 2, "units": 8, "unit": "character"}
    known |= {"direction": "forward", "deterministic": True, "max_model_len": None}
    model = Model.from_response({**known, "new": 1})
    assert (model, model.raw) == (Model(**known), {**known, "new": 1})
    assert str(model) == "tiny"
    assert repr(model) == "Model(id='tiny', version=3, cell='lstm', units=8, unit='character', direction='forward')"
