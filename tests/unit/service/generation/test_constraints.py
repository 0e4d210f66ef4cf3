"""Constrained completions on a fake model: every choice matches, from one request or several, in either direction."""

import json
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from service.context import RequestContext
from service.errors import ClientGone, DeadlineExceeded, InvalidRequest, Overloaded, StateRefused
from service.generation import resume_tokens
from service.generation.running_request import RunningRequest
from service.memory import MemoryBudget, MemoryLease
from tests.unit.service.engines import request
from tests.waiting import until

PATTERN = "(ab+c?|[d-f]{2,9})-[g-k]+"
# The fake model's characters end there.
PATTERN = PATTERN.replace("-", "z")


@pytest.fixture
def service(start_service):
    return start_service(prefix_cache_bytes=10**6)


def ask(service, *prompts, pattern=PATTERN, max_tokens=40, **fields):
    outputs = {} if pattern is None else {"structured_outputs": {"regex": pattern}}
    return service.results(*prompts, max_tokens=max_tokens, **{**outputs, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "characters backward", "prompt": None, "suffix": "abc"},
        {"n": 3, "best_of": 5},
        {"temperature": 0.0},
        {"logprobs": 3, "echo": True},
        {"repetition_penalty": 1.2, "logit_bias": {"5": -100}},
        {"min_tokens": 12},
        {"prompt": ["abc", "", "xyz"], "n": 4},
    ],
    ids=str,
)
def test_every_choice_matches_and_has_the_same_text_however_many_there_are(service, fields):
    results = ask(service, **fields)
    texts = [result.text.removeprefix("abc") if fields.get("echo") else result.text for result in results]
    assert all(re.fullmatch(PATTERN, text) for text in texts)
    assert [result.finish_reason for result in results] == ["length" if len(text) == 40 else "stop" for text in texts]
    assert [result.text for result in ask(service, **fields)] == [result.text for result in results]


@pytest.mark.parametrize("direction", ["", " backward"])
def test_tokens_of_several_characters_match_in_both_directions(service, direction):
    """A pattern may begin or end within what a regular expression of the tokenizer would take as a whole."""
    given = {"prompt": None, "suffix": "c1"} if direction else {"prompt": "c1"}
    fields = {"model": "matches" + direction, "n": 20, "max_tokens": 40, **given}
    schema = {"properties": {"a": {"enum": [12, 1]}}, "required": ["a"], "additionalProperties": False}
    for pattern in (r"(\[[a-d]+\]|bc|b){3,6}12?", r"\]?a\[bb"):
        results = ask(service, pattern=pattern, **fields)
        assert all(re.fullmatch(pattern, result.text) for result in results)
    texts = {result.text for result in ask(service, pattern=r"(\[[a-d]+\]|bc|b){3,6}12?", logprobs=1, **fields)}
    assert len(texts) > 1
    results = ask(service, pattern=None, structured_outputs={"json": schema}, **fields)
    assert {tuple(json.loads(result.text).items()) for result in results} <= {(("a", 12),), (("a", 1),)}


@pytest.mark.parametrize("max_tokens", range(4, 9))
def test_max_tokens_cuts_no_match_off(service, max_tokens):
    results = ask(service, n=16, max_tokens=max_tokens)
    assert all(re.fullmatch(PATTERN, result.text) for result in results)
    cut = ask(service, n=16, max_tokens=max_tokens, complete_within_max_tokens=False)
    assert not all(re.fullmatch(PATTERN, result.text) for result in cut)


def test_a_match_longer_than_max_tokens_is_an_error(service):
    with pytest.raises(InvalidRequest, match=r"max_tokens must be at least 4, the tokens of the shortest .* got 3"):
        ask(service, max_tokens=3)
    assert len(ask(service, max_tokens=3, complete_within_max_tokens=False)[0].text) == 3
    assert ask(service, max_tokens=0)[0].text == ""


def test_a_pattern_that_matches_the_empty_text_needs_no_tokens(service):
    results = ask(service, pattern="(abcdef)?", n=9, max_tokens=3)
    assert {(result.text, result.finish_reason) for result in results} == {("", "stop")}
    with pytest.raises(InvalidRequest, match=r"max_tokens must be at least 6"):
        ask(service, pattern="(abcdef)?", max_tokens=3, min_tokens=1)


@pytest.mark.parametrize("first", [1, 3, 4, 7, 20])
@pytest.mark.parametrize("repeats", [True, False])
def test_a_resumed_match_is_the_match_without_interruption(service, first, repeats):
    for seed in range(8):
        whole = ask(service, seed=seed, complete_within_max_tokens=False)[0]
        part = ask(service, seed=seed, max_tokens=first, complete_within_max_tokens=False, return_state=True)[0]
        assert whole.text.startswith(part.text)
        if part.finish_reason == "stop":
            continue
        fields = {"state": part.resume_token, "prompt": None, "seed": None, "complete_within_max_tokens": False}
        rest = ask(service, pattern=PATTERN if repeats else None, max_tokens=40 - first, **fields)[0]
        assert part.text + rest.text == whole.text


def test_a_match_that_cannot_be_longer_is_not_continued(service):
    ended = ask(service, pattern="[mn]{3}", return_state=True)[0]
    fields = {"state": ended.resume_token, "seed": None, "pattern": None}
    for more in ({}, {"return_state": True}, {"max_tokens": 0}, {"n": 2}):
        results = ask(service, prompt=None, **fields, **more)
        assert {(result.text, result.finish_reason) for result in results} == {("", "stop")}
    again = ask(service, prompt=None, return_state=True, **fields)[0]
    assert ask(service, prompt=None, **{**fields, "state": again.resume_token})[0].text == ""
    empty, free = ask(service, prompt=["", "xyz"], max_tokens=9, **fields)
    assert (empty.text, bool(free.text)) == ("", True)


@pytest.mark.parametrize("repeats", [True, False])
def test_an_extensible_match_that_max_tokens_ended_is_cut_off_and_can_be_continued(service, repeats):
    results = ask(service, pattern="[mn]+", max_tokens=3, n=32, return_state=True)
    # The others end with the EOS token.
    cut = next(result for result in results if len(result.text) == 3)
    assert cut.finish_reason == "length"
    fields = {"state": cut.resume_token, "prompt": None, "seed": None, "n": 32}
    rest = ask(service, pattern="[mn]+" if repeats else None, max_tokens=5, **fields)
    assert re.fullmatch("[mn]+", "".join(result.text for result in rest))
    (whole,) = ask(service, pattern="[mn]{10}", max_tokens=10)
    assert (len(whole.text), whole.finish_reason) == (10, "stop")


def test_a_match_begins_anew_after_a_prompt_another_pattern_or_its_end(service):
    part = ask(service, max_tokens=2, complete_within_max_tokens=False, return_state=True)[0]
    fields = {"state": part.resume_token, "seed": None}
    assert re.fullmatch(PATTERN, ask(service, prompt="xyz", **fields)[0].text)
    assert re.fullmatch("[mn]{3}", ask(service, pattern="[mn]{3}", prompt=None, **fields)[0].text)
    ended = ask(service, pattern="[mn]{3}", return_state=True)[0]
    again = ask(service, pattern="[mn]{3}", prompt=None, state=ended.resume_token, seed=None)[0]
    assert (ended.finish_reason, again.finish_reason) == ("stop", "stop")
    assert len(again.text) == 3


def test_a_match_that_stops_at_a_stop_string_can_be_resumed(service):
    part = ask(service, pattern="a{3}z[b-d]{6}e", stop=["z"], return_state=True)[0]
    assert part.text == "aaa"
    rest = ask(service, pattern=None, state=part.resume_token, prompt=None, seed=None)[0]
    assert re.fullmatch("[b-d]{6}e", rest.text)


def test_a_resume_token_of_another_automaton_is_refused(service, monkeypatch):
    init = resume_tokens.SavedMatch.__init__
    monkeypatch.setattr(resume_tokens.SavedMatch, "__init__", lambda *args: init(*args[:-1], args[-1][::-1] + "x"))
    part = ask(service, max_tokens=2, complete_within_max_tokens=False, return_state=True)[0]
    with pytest.raises(StateRefused, match="another release of this server compiled"):
        ask(service, pattern=None, state=part.resume_token, prompt=None, seed=None)


def test_sequences_with_different_patterns_share_calls_with_sequences_without(service):
    kinds = [{"guided_regex": PATTERN}, {"guided_regex": "[a-e]{30}"}, {"presence_penalty": 1.0}]
    alone = [[result.text for result in ask(service, n=2, pattern=None, **kind)] for kind in kinds]
    bodies = [request(n=2, max_tokens=40, **kind) for kind in kinds]
    running = [service.engine.start_completion(body, RequestContext()) for body in bodies]
    assert [[result.text for result in generation.results()] for generation in running] == alone


NONE = "their combination matches no text"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"guided_regex": "["}, "guided_regex", "guided_regex is not a valid regular expression"),
        ({"guided_choice": ["É"]}, "guided_choice", "needs characters that the model's vocabulary lacks, such as 'É'"),
        ({"guided_json": {"not": {}}}, "guided_json", "guided_json: schema must have a type"),
        ({"guided_json": "{"}, "guided_json", "guided_json must be a JSON Schema, as an object or a JSON string"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice", "guided_choice must be absent if guided_reg"),
        ({"response_format": {"type": "xml"}}, "response_format", "response_format.type must be 'text', 'json_object'"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs", "grammar must be absent (unsupported; use re"),
        (
            {"structured_outputs": {"regex": "a", "banned_characters": "a"}},
            "structured_outputs",
            f"structured_outputs.regex and structured_outputs.banned_characters: {NONE}",
        ),
        ({"guided_regex": "a|b", "min_length": 9}, "guided_regex", f"guided_regex and min_length: {NONE}"),
        ({"guided_regex": "(foo", "min_length": 4}, "guided_regex", "guided_regex is not a valid regular expression"),
        ({"guided_regex": "[a&&b]"}, "guided_regex", "guided_regex must not have a class without characters"),
        ({"min_length": 10_001}, "min_length", "min_length must be less than or equal to 10000, got 10001"),
    ],
    ids=str,
)
def test_what_cannot_be_matched_is_an_error_that_names_the_field(service, fields, param, message):
    with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
        ask(service, pattern=None, **fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_choice": ["ab", "abc", "xy"]}, "ab|abc|xy"),
        ({"response_format": {"type": "text"}}, ".*"),
        ({"structured_outputs": {"allowed_characters": "abc"}, "min_length": 7}, "[abc]{7,}"),
        ({"structured_outputs": {"banned_characters": "abcdefghij"}, "guided_regex": ".{5}"}, "[^a-j]{5}"),
    ],
    ids=str,
)
def test_each_kind_of_constraint(service, fields, pattern):
    assert all(re.fullmatch(pattern, result.text) for result in ask(service, pattern=None, n=16, **fields))


def test_the_memory_estimate_counts_the_patterns_of_resume_tokens(service):
    """Each token contains the whole source, also if the request resumes a match and has no pattern of its own."""
    sizes = []
    for length in (0, 10_000):
        schema = {"type": "null", "description": "x" * length}
        fields = {"guided_json": schema, "max_tokens": 2, "return_state": True, "complete_within_max_tokens": False}
        (first,) = service.results("", **fields)
        resumed = request("", state=first.resume_token, seed=None, n=3, max_tokens=2, return_state=True)
        budget = MemoryBudget(10**9)
        builder = service.engine.start_completion(resumed, RequestContext(memory=MemoryLease(budget)))
        sizes.append(budget.num_bytes)
        builder.results()
        builder.request.close()
    assert sizes[1] - sizes[0] >= 3 * 10_000


class HeldCompiler:
    """A compiler that never finishes."""

    def __init__(self):
        self.senders = []

    def compile(self, *_, sender, wait):
        self.senders.append(sender)
        return wait(Future())


@pytest.fixture
def held(service, monkeypatch):
    monkeypatch.setattr(service.engine, "_compiler", HeldCompiler())
    return service


def test_the_deadline_includes_the_compilation(held):
    with pytest.raises(DeadlineExceeded, match=r"within its timeout_s of 0\.1 seconds"):
        start(held, timeout_s=0.1)
    assert held.admission.num_sequences == 0


def test_a_client_that_disconnects_waits_for_no_compilation(held):
    with pytest.raises(ClientGone):
        start(held, watch=lambda running: running.cancel())
    with pytest.raises(ClientGone):
        start(held, watch=lambda running: threading.Timer(0.1, running.cancel).start())
    assert held.admission.num_sequences == 0


def test_requests_that_wait_for_the_compiler_count_towards_their_keys_limit(held):
    contexts = [RequestContext("key", max_sequences=2, sender="somebody") for _ in range(3)]
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(start, held, context=each, timeout_s=1.0) for each in contexts[:2]]
        until(lambda: held.admission.num_sequences == 2)
        with pytest.raises(Overloaded, match="2 of 2 sequences for this API key"):
            start(held, context=contexts[2])
        assert all(isinstance(each.exception(), DeadlineExceeded) for each in waiting)
    assert held.engine._compiler.senders == ["somebody"] * 2
    assert held.listener.finished_requests == []


def start(service, watch=lambda _: None, context=None, **fields):
    """Start a request with a pattern, and close it as the routes do."""
    requests = []
    try:
        return service.engine.start_completion(
            request(structured_outputs={"regex": PATTERN}, **fields),
            context or RequestContext(sender="somebody"),
            lambda running: (requests.append(running), watch(running)),
        )
    finally:
        for running in requests:
            running.close()


def test_a_cancellation_ends_a_wait_at_once():
    others = {name: Mock() for name in ("scheduler", "admission", "metrics")}
    request = RunningRequest(Mock(card=Mock(state_size=1)), None, Mock(), 60.0, **others, max_unfinished=1)

    class Compilation(Future):
        def result(self, timeout=None):
            request.cancel()
            assert self.cancelled()
            return super().result(timeout)

    with pytest.raises(ClientGone):
        request.wait(Compilation())
