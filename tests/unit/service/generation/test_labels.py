"""Labels of a completion on a fake model: the tokens that it reads first, and what is refused."""

import numpy as np
import pytest

from service.errors import InvalidRequest
from tests.unit.service.engines import CHARACTERS, LABELLED


def ids(*names):
    return [LABELLED.tokens.index(name) for name in names]


def expected(service, *token_ids, **fields):
    """Return the texts of a model that reads these tokens as they are."""
    return [result.text for result in service.results(list(token_ids), model="labelled", **fields)]


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        ({"style": "late"}, ("<style=late>", "<age=>")),
        ({"age": 17.5, "style": "early"}, ("<style=early>", "<age=..18>")),
        ({"age": "18.."}, ("<style=>", "<age=18..>")),
    ],
)
def test_the_model_reads_start_and_labels_before_the_prompt(service, labels, tokens):
    """Of several prompts each has them; they are no tokens of the prompt, and not its first ones."""
    opening = ids("<end>", *tokens)
    got = service.results("ab", "", model="labelled", labels=labels)
    assert got[0].text == expected(service, *opening, *LABELLED.encode("ab"))[0]
    assert got[1].text == expected(service, *opening)[0]
    assert got[0].text != service.results("ab", model="labelled")[0].text


def test_a_backward_model_reads_labels_first_too(service):
    """It reads its input from the right, and the labels before it."""
    fields = {"model": "labelled backward", "prompt": "", "max_tokens": 8}
    got = service.results(suffix="ab", labels={"style": "late"}, **fields)
    reversed_opening = ids("<end>", "<style=late>", "<age=>")[::-1]
    assert got[0].text == service.results(suffix=[*LABELLED.encode("ab"), *reversed_opening], **fields)[0].text


def test_without_labels_only_an_empty_prompt_is_opened(service):
    empty, given = service.results("", "ab", model="labelled")
    assert empty.text == expected(service, *ids("<end>", "<style=>", "<age=>"))[0]
    assert given.text == expected(service, *LABELLED.encode("ab"))[0]
    assert service.results("", model="characters")[0].text == service.results([CHARACTERS.special.start])[0].text


def test_the_first_token_of_a_prompt_has_a_log_probability_given_labels(service):
    fields = {"model": "labelled", "echo": True, "logprobs": 1, "max_tokens": 2}
    (plain,), (labelled,) = (service.results("abc", **fields, **more) for more in ({}, {"labels": {"style": "late"}}))
    assert plain.logprobs.token_logprobs[0] is None
    assert labelled.logprobs.tokens[:3] == ["a", "b", "c"]
    assert labelled.logprobs.text_offset[:3] == [0, 1, 2]
    assert np.isfinite(labelled.logprobs.token_logprobs).all()


def test_labels_are_never_sampled_by_a_pattern(service):
    """A pattern that the name of a label matches does not produce one."""
    fields = {"model": "labelled", "max_tokens": 9, "structured_outputs": {"regex": "[a-c]{3}"}}
    assert set(service.results("", **fields)[0].text) <= set("abc")


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (
            "labelled",
            {"stile": "late"},
            "labels must have columns of model 'labelled', which are style, age, got 'stile'",
        ),
        ("labelled", {"style": "Late"}, "labels.style must be one of early, late; got 'Late'"),
        ("labelled", {"age": "old"}, "labels.age must be a number, or one of ..18, 18..; got 'old'"),
        ("characters", {"style": "late"}, "labels must be absent: version 1 of model 'characters' was trained without"),
    ],
)
def test_unknown_labels_are_refused_with_what_exists(service, model, labels, message):
    with pytest.raises(InvalidRequest) as refused:
        service.results("ab", model=model, labels=labels)
    assert (str(refused.value), refused.value.param) == (message, "labels")
