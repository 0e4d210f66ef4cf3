"""Labels of a text on a fake model: the tokens that it reads first, and what is refused."""

import numpy as np
import pytest

from service.api.requests import EmbeddingsRequest, InspectRequest
from service.context import RequestContext
from service.errors import InvalidRequest
from tests.unit.service.engines import CHARACTERS, LABELED, parsed


def ids(*names):
    return [LABELED.tokens.index(name) for name in names]


def expected(service, *token_ids, **fields):
    """Return the texts of a model that reads these tokens as they are."""
    return [result.text for result in service.results(list(token_ids), model="labeled", **fields)]


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        ({"style": "late"}, ("<style=late>", "<age=>")),
        ({"age": 17.5, "style": "early"}, ("<style=early>", "<age=..18>")),
        ({"age": "18.."}, ("<style=>", "<age=18..>")),
    ],
)
def test_the_model_reads_start_and_labels_before_the_prompt(service, labels, tokens):
    opening = ids("<end>", *tokens)
    got = service.results("ab", "", model="labeled", labels=labels)
    assert got[0].text == expected(service, *opening, *LABELED.encode("ab"))[0]
    assert got[1].text == expected(service, *opening)[0]
    assert got[0].text != service.results("ab", model="labeled")[0].text


@pytest.mark.parametrize(("labels", "style"), [({"style": "late"}, "<style=late>"), ({}, "<style=>")])
def test_after_the_end_of_a_text_the_next_one_has_its_labels(service, labels, style):
    fields = {"model": "labeled", "max_tokens": 300, "logprobs": 0}
    for seed in range(100):
        (first,) = service.results("ab", **fields, labels=labels, seed=seed, return_state=True)
        if first.finish_reason == "stop":
            break
    scored = {**fields, "max_tokens": 0, "echo": True}
    (after,) = service.results("cd", **scored, state=first.resume_token)
    drawn = [LABELED.tokens.index(token) for token in first.logprobs.tokens]
    opening, next_opening = ids("<end>", style, "<age=>") if labels else [], ids("<end>", style, "<age=>")
    read = [*opening, *LABELED.encode("ab"), *drawn, *next_opening, *LABELED.encode("cd")]
    (whole,) = service.results(read, **scored)
    assert after.logprobs.token_logprobs == whole.logprobs.token_logprobs[-2:]


def test_after_a_complete_match_the_next_labels_are_read_and_nothing_is_generated(service):
    """The sequence that reads them would go on to generate, in a slot, after its request has ended."""
    fields = {"model": "labeled", "return_state": True}
    (first,) = service.results("", labels={"style": "early"}, seed=0, guided_regex="[a-z]*", max_tokens=40, **fields)
    assert first.finish_reason == "stop"
    num_calls = len(service.calls())
    (after,) = service.results("", state=first.resume_token, seed=None, **fields)
    assert (after.text, after.finish_reason) == ("", "stop")
    assert service.calls()[num_calls:] == ["prefill"]


def test_a_backward_model_reads_labels_first_too(service):
    fields = {"model": "labeled backward", "prompt": "", "max_tokens": 8}
    got = service.results(suffix="ab", labels={"style": "late"}, **fields)
    reversed_opening = ids("<end>", "<style=late>", "<age=>")[::-1]
    assert got[0].text == service.results(suffix=[*LABELED.encode("ab"), *reversed_opening], **fields)[0].text


def test_without_labels_only_an_empty_prompt_is_opened(service):
    empty, given = service.results("", "ab", model="labeled")
    assert empty.text == expected(service, *ids("<end>", "<style=>", "<age=>"))[0]
    assert given.text == expected(service, *LABELED.encode("ab"))[0]
    assert service.results("", model="characters")[0].text == service.results([CHARACTERS.special.start])[0].text


def test_the_first_token_of_a_prompt_has_a_log_probability_given_labels(service):
    fields = {"model": "labeled", "echo": True, "logprobs": 1, "max_tokens": 2}
    (plain,), (labeled,) = (service.results("abc", **fields, **more) for more in ({}, {"labels": {"style": "late"}}))
    assert plain.logprobs.token_logprobs[0] is None
    assert labeled.logprobs.tokens[:3] == ["a", "b", "c"]
    assert labeled.logprobs.text_offset[:3] == [0, 1, 2]
    assert np.isfinite(labeled.logprobs.token_logprobs).all()


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_embedding_is_that_of_labels_and_text(service, pooling):
    read = [*ids("<end>", "<style=late>", "<age=>"), *LABELED.encode("ab")]

    def embedding(given, **fields):
        wanted = parsed(EmbeddingsRequest, model="labeled", input=given, pooling=pooling, **fields)
        processor = service.engine.start_embedding(wanted, RequestContext())
        assert processor.request.num_prompt_tokens == len(given)
        return processor.vectors()[0].tolist()

    assert embedding("ab", labels={"style": "late"}) == embedding(read) != embedding("ab")


def test_an_inspection_is_of_the_text_after_labels(service):
    def inspection(given, **fields):
        body = parsed(InspectRequest, model="labeled", input=given, **fields)
        return service.engine.start_inspection(body, RequestContext()).result()

    found = inspection("ab", labels={"style": "late"})
    all_tokens = inspection([*ids("<end>", "<style=late>", "<age=>"), *LABELED.encode("ab")])
    hidden, of_all = (each["layers"][0]["values"]["hidden"] for each in (found, all_tokens))
    np.testing.assert_array_equal(hidden, of_all[-2:])
    assert (found["tokens"], found["token_logprobs"]) == (["a", "b"], all_tokens["token_logprobs"][-2:])


def test_labels_are_never_sampled_by_a_pattern(service):
    """They have no text, so that a match does not say whether there are any."""
    pattern = {"regex": "[a-c]{3}"}
    results = service.results("", model="labeled", n=20, max_tokens=9, logprobs=0, structured_outputs=pattern)
    assert {(len(result.text), len(result.logprobs.tokens)) for result in results} == {(3, 3)}


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        ("labeled", {"stile": ""}, "labels must have columns of model 'labeled', which are style, age, got 'stile'"),
        ("labeled", {"style": "Late"}, "labels.style must be one of early, late; got 'Late'"),
        ("labeled", {"age": "old"}, "labels.age must be a number, or one of ..18, 18..; got 'old'"),
        ("characters", {"style": "late"}, "labels must be absent: version 1 of model 'characters' was trained without"),
    ],
)
def test_unknown_labels_are_refused_with_what_exists(service, model, labels, message):
    with pytest.raises(InvalidRequest) as refused:
        service.results("ab", model=model, labels=labels)
    assert (str(refused.value), refused.value.param) == (message, "labels")
