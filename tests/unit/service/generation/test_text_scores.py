"""Scores of texts: sums and means of surprisals, by one model or two, whole or as parts of a text."""

from dataclasses import replace

import numpy as np
import pytest

from contract.card import HeldOutScores, TrainingFilterDescription
from service.api.requests import ScoreRequest
from service.context import RequestContext
from service.errors import ClientGone, InvalidRequest, ModelNotFound
from tests.fakes import END, FakeBackend, scores_of
from tests.unit.service.engines import CHARACTERS, LABELED, WORDS, Models, parsed
from tests.waiting import until

TEXT, BACKWARD, LATE = "thecatsatonthemat", "characters backward", {"style": "late"}


def processor(service, given, context=None, **fields):
    model = fields.get("model", "characters")
    body = parsed(ScoreRequest, **{"input": given, "whole": "words" not in model, **fields})
    return service.engine.start_score(body, context or RequestContext())


def scored(service, given, **fields):
    return processor(service, given, **fields).results()


def surprisals(ids):
    """Return those of all tokens but the first, by the fake model."""
    return [-score for score in scores_of(ids)]


def of_characters(text):
    """Return those of a whole text and of its end."""
    return surprisals([END, *CHARACTERS.encode(text), END])


def sums(scores):
    return [score["nats"] for score in scores]


def test_a_text_is_scored_whole_with_its_end(service):
    for text in (TEXT, "a", ""):
        (score,) = scored(service, text)
        nats = sum(of_characters(text))
        assert score["num_tokens"] == len(text) + 1
        assert score["nats"] == pytest.approx(nats, abs=1e-5)
        assert score["nats_per_token"] == score["nats_per_character"] == pytest.approx(nats / (len(text) + 1), abs=1e-5)
        assert (score["percentile"], "ratio" in score, "tokens" in score) == (None, False, False)


def test_the_first_token_of_a_running_text_has_no_score(service):
    ids = WORDS.encode("the cat sat")
    (score,) = scored(service, "the cat sat", model="words")
    assert score["nats"] == pytest.approx(sum(surprisals(ids)), abs=1e-5)
    assert score["num_tokens"] == 2
    assert score["nats_per_character"] == pytest.approx(score["nats"] / len("cat sat"), abs=1e-6)
    (backward,) = scored(service, "the cat sat", model="words backward")
    assert backward["nats"] == pytest.approx(sum(surprisals(ids[::-1])), abs=1e-5)
    assert backward["nats_per_character"] == pytest.approx(backward["nats"] / len("the cat "), abs=1e-6)


def test_nothing_is_scored_of_a_running_text_without_a_second_token(service):
    for text in ("", "the"):
        (score,) = scored(service, text, model="words", tokens=True)
        assert (score["nats"], score["num_tokens"]) == (0.0, 0)
        assert score["nats_per_token"] is score["nats_per_character"] is None
        assert score["surprisals"] == [None] * len(text.split())
    assert service.calls() == []


def test_texts_keep_their_order_and_need_no_top_tokens(service):
    """However long they are: they are computed by length. The output of calls is a number per token."""
    texts = [TEXT[:length] for length in (3, 17, 0, 9, 17, 1, 5)] * 9
    assert sums(scored(service, texts)) == [pytest.approx(sum(of_characters(text)), abs=1e-5) for text in texts]
    assert {tuple(call.output_shapes()) for call in service.backend.calls} == {("state", "logprobs")}


@pytest.mark.parametrize("model", ["characters", "characters backward", "words"])
def test_tokens_are_in_reading_order_with_offsets(service, model):
    text = "the cat sat" if model == "words" else "acab"
    (score,) = scored(service, text, model=model, tokens=True)
    known = [value for value in score["surprisals"] if value is not None]
    assert sum(known) == pytest.approx(score["nats"], abs=1e-5)
    assert len(known) == score["num_tokens"]
    if model == "words":
        assert score["surprisals"][0] is None
        return
    backward = "backward" in model
    expected = of_characters(text[::-1])[::-1] if backward else of_characters(text)
    assert score["surprisals"] == pytest.approx(expected, abs=1e-5)
    assert score["tokens"] == (["<end>", *text] if backward else [*text, "<end>"])
    assert score["text_offset"] == ([0, 0, 1, 2, 3] if backward else [0, 1, 2, 3, 4])


def test_the_ratio_is_that_of_the_likelihoods_by_two_models(service):
    charged = []
    context = RequestContext(charge=lambda count, *_: charged.append(count))
    job = processor(service, ["abc", ""], context, ratio_to="characters backward")
    for text, score in zip(["abc", ""], job.results(), strict=True):
        own, other = sum(of_characters(text)), sum(of_characters(text[::-1]))
        assert score["ratio"] == pytest.approx(other - own, abs=1e-5)
    assert job.request.total_prompt_tokens == 6
    # Those of both models, with the tokens that each reads before a text.
    inputs = [prompt.input_ids for request in (job, job.reference) for prompt in request.texts]
    assert sum(charged) == sum(map(len, inputs))


def test_parts_of_a_text_are_scored_after_each_other(service):
    parts = ["the cat", "", "sat on", "a mat"]
    whole = surprisals(WORDS.encode("the cat sat on a mat"))
    expected = [whole[0], 0, sum(whole[1:3]), sum(whole[3:])]
    assert sums(scored(service, parts, model="words", carry_state=True)) == pytest.approx(expected, abs=1e-5)
    first = processor(service, parts[:2], model="words", carry_state=True)
    found = sums(first.results())
    found += sums(scored(service, parts[2:], model="words", carry_state=True, state=first.resume_token()))
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("style", [None, "", "late"], ids=["without columns", "without a label", "of a completion"])
def test_documents_in_a_row_are_scored_with_their_ends(service, style):
    """After each end the model reads the labels of the next one."""
    model, opening, fields, ids = "characters", [END], {}, []
    if style is not None:
        model, opening = "labeled", [END, *map(LABELED.tokens.index, (f"<style={style}>", "<age=>"))]
    if style:
        labels = {"model": model, "labels": {"style": style}, "max_tokens": 0, "return_state": True}
        fields = {"state": service.results("", **labels)[0].resume_token}
    for text in ("abc", "", "ba", "c"):
        ids += [*opening, *CHARACTERS.encode(text)]
    every, num_labels = surprisals([*ids, END]), len(opening) - 1
    job = processor(service, ["abc", "", "ba"], model=model, carry_state=True, tokens=True, **fields)
    found = job.results()
    assert [score["tokens"] for score in found] == [["a", "b", "c", "<end>"], ["<end>"], ["b", "a", "<end>"]]
    (after,) = scored(service, "c", model=model, carry_state=True, state=job.resume_token())
    expected = []
    for num_tokens in (4, 1, 3, 2):
        expected.append(sum(every[num_labels : num_labels + num_tokens]))
        every = every[num_labels + num_tokens :]
    assert sums([*found, after]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("text", ["", "the"])
def test_a_text_without_scores_is_before_the_next_one(service, text):
    job = processor(service, text, model="words", carry_state=True)
    assert sums(job.results()) == [0.0]
    (after,) = scored(service, "cat sat", model="words", carry_state=True, state=job.resume_token())
    before = WORDS.encode(text) or [WORDS.special.start]
    assert after["nats"] == pytest.approx(sum(surprisals([*before, *WORDS.encode("cat sat")])), abs=1e-5)


def test_a_score_continues_from_a_completion_and_the_other_way_round(service):
    (first,) = service.results("abc", max_tokens=5, return_state=True, seed=3)
    job = processor(service, "ab", carry_state=True, state=first.resume_token, tokens=True)
    (score,) = job.results()
    (echoed,) = service.results("ab", state=first.resume_token, echo=True, logprobs=0, max_tokens=0)
    assert [-value for value in score["surprisals"][:2]] == echoed.logprobs.token_logprobs
    assert score["nats"] == pytest.approx(sum(score["surprisals"]), abs=1e-5)
    (rest,) = service.results("", state=job.resume_token(), max_tokens=4, seed=3)
    assert len(rest.text) <= 4


def test_text_that_a_completion_held_back_survives_a_score(service):
    """It may begin a stop string; the next completion returns it first, as after a prompt."""
    options = {"max_tokens": 20, "seed": 0, "frequency_penalty": 1.0}
    (whole,) = service.results("abc", **options)
    (first,) = service.results("abc", **options, stop=[whole.text[-2:] + "?"], return_state=True)
    opened = service.engine._resume_tokens.open(first.resume_token, "")
    assert opened.held_back
    job = processor(service, "", carry_state=True, state=first.resume_token, whole=False)
    job.results()
    empty = service.engine._resume_tokens.open(job.resume_token(), "")
    assert (empty.held_back, empty.token_counts) == (opened.held_back, opened.token_counts)
    job = processor(service, "ab", carry_state=True, state=first.resume_token, whole=False)
    job.results()
    (by_score,) = service.results("", state=job.resume_token(), max_tokens=3)
    assert by_score.text.startswith(opened.held_back)


@pytest.fixture
def set_held_out(monkeypatch):
    """A function that sets the scores of held-out texts, and the training filter, on the cards of all models."""
    find = Models.find

    def set_held_out(kind, quantiles, filter_kind=None):
        scores = kind and HeldOutScores(kind=kind, num_texts=100, quantiles=tuple(quantiles))
        sizes = {"num_entries": 1, "span_tokens": 0, "stride": 1, "false_positive_rate": 0.1, "sha256": ""}
        described = filter_kind and TrainingFilterDescription(kind=filter_kind, **sizes)

        def with_scores(*given, **fields):
            found = find(*given, **fields)
            update = {"held_out_scores": scores, "training_filter": described}
            return replace(found, card=found.card.model_copy(update=update))

        monkeypatch.setattr(Models, "find", with_scores)

    return set_held_out


def test_the_percentile_is_that_among_held_out_texts(service, set_held_out):
    per_character = sum(of_characters(TEXT)) / (len(TEXT) + 1)
    for low, high, percentile in ((0, 2 * per_character, 50), (0, 0.001, 100), (99, 100, 0)):
        set_held_out("documents", np.linspace(low, high, 101))
        assert scored(service, TEXT)[0]["percentile"] == pytest.approx(percentile, abs=0.01)
        assert scored(service, TEXT, carry_state=True)[0]["percentile"] is None


@pytest.mark.parametrize("kind", ["documents", "lines", None])
@pytest.mark.parametrize("filter_kind", ["documents", "spans", None])
def test_texts_are_whole_by_default_for_models_of_short_documents(service, set_held_out, kind, filter_kind):
    """A model of few documents has no scores of held-out texts, but a training filter of documents."""
    set_held_out(kind, [1.0] * 101, filter_kind)
    for whole in (None, True, False):
        job = processor(service, "abc", whole=whole)
        (score,) = job.results()
        assert job.is_whole == ((kind or filter_kind) == "documents" if whole is None else whole)
        assert score["num_tokens"] == (4 if job.is_whole else 2)
        assert (score["percentile"] is None) == (kind is None or job.is_whole != (kind == "documents"))


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"model": "words", "whole": True}, "whole", "be false for model 'words', which was not trained on documents"),
        ({"ratio_to": "words"}, "whole", "be false for model 'words', which was not trained on documents"),
        ({"state": "x"}, "state", "be absent without carry_state"),
        ({"carry_state": True, "ratio_to": "words"}, "ratio_to", "be absent with carry_state, got 'words'"),
        ({"carry_state": True, "model": BACKWARD}, "carry_state", f"be false for model '{BACKWARD}', which reads"),
        ({"given": ["a" * 900] * 3, "tokens": True}, "tokens", "at most 2000 tokens, got 2700"),
        ({"given": ["a" * 900] * 3, "carry_state": True}, "input", "1000 tokens in all with carry_state, got 2700"),
        ({"given": "a" * 1001}, "input", "at most 1000 tokens, got 1001"),
        ({"given": [[1, 50]]}, "input", "token ids below 50, got 50"),
        ({"model": "words", "labels": LATE, "whole": None}, "labels", "be absent: version 1 of model 'words'"),
        ({"model": "labeled", "labels": LATE, "whole": False}, "labels", "be absent without whole"),
        ({"model": "labeled", "labels": LATE, "carry_state": True}, "labels", "be absent with carry_state"),
    ],
)
def test_what_cannot_be_scored_is_refused(service, fields, param, message):
    with pytest.raises(InvalidRequest, match=message) as error:
        scored(service, **{"given": "abc", **fields})
    assert error.value.param == param


def test_an_unknown_model_of_a_ratio_is_reported_as_ratio_to(service):
    with pytest.raises(ModelNotFound, match="model 'nobody' is not served") as error:
        scored(service, "abc", ratio_to="nobody")
    assert error.value.param == "ratio_to"


def test_a_ratio_takes_no_more_than_the_only_sequence_of_its_key(start_service):
    service = start_service(FakeBackend(held=True))
    body, key = parsed(ScoreRequest, input="the cat", ratio_to="words", whole=False), RequestContext(max_sequences=1)
    job = service.engine.start_score(body, key)
    assert service.admission.num_sequences == 1
    service.backend.release(2)
    assert "ratio" in job.results()[0]
    until(lambda: service.admission.num_sequences == 0)


def test_both_requests_of_a_ratio_end_with_the_client(start_service):
    """The web watches one of them."""
    service, started = start_service(FakeBackend(held=True)), []
    body = parsed(ScoreRequest, input=["the cat"] * 3, ratio_to="words", whole=False)
    job = service.engine.start_score(body, RequestContext(), started.append)
    assert started == [job.request]
    until(lambda: service.admission.num_sequences == 6, timeout=10)
    job.request.cancel()
    with pytest.raises(ClientGone):
        job.results()
    job.request.close()
    service.backend.release(2)
    until(lambda: service.admission.num_sequences == 0)


def test_labels_are_read_before_each_text_and_not_scored(service):
    names = {"late": ("<style=late>", "<age=>"), None: ("<style=>", "<age=>")}
    for style, tokens in names.items():
        labels = {"labels": {"style": style}} if style else {}
        scores = scored(service, ["ab", ""], model="labeled", ratio_to="characters", tokens=True, **labels)
        opening = [END, *map(LABELED.tokens.index, tokens)]
        for score, text in zip(scores, ("ab", ""), strict=True):
            own = surprisals([*opening, *LABELED.encode(text), END])[len(opening) - 1 :]
            assert score["surprisals"] == pytest.approx(own, abs=1e-5)
            assert score["ratio"] == pytest.approx(sum(of_characters(text)) - sum(own), abs=1e-4)
