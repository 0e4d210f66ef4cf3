"""Rejection of duplicates and copies: the same choices in any order of arrival, others in place of rejected ones."""

import itertools
import json
import re
import threading

import pytest

from service.context import RequestContext
from service.errors import ClientGone, DeadlineExceeded, InvalidRequest, Overloaded, RateLimited
from service.generation.choice import CandidateFilter
from service.memory import MemoryBudget, MemoryLease
from service.web.completions import CompletionResponse


def ask(service, **fields):
    """Return the texts of a request's choices, and how many were rejected."""
    builder = service.start(**fields)
    try:
        return [result.text for result in builder.results()], builder.num_rejected
    finally:
        builder.request.close()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_candidates_are_decided_in_the_order_of_their_numbers(order):
    candidates, ranks = CandidateFilter(3, unique=True, is_copy=None), {}
    for number in order:
        ranks |= candidates.decide(number, [], "abac"[number])
    assert ranks == {0: 0, 1: 1, 2: None, 3: 2}
    assert candidates.num_rejected == 1


def test_unique_choices_are_distinct_and_the_same_in_every_run(service):
    fields = {"n": 24, "unique": True, "guided_regex": "[ab][cd][ef][g-i]"}
    texts, num_rejected = ask(service, **fields)
    assert sorted(texts) == sorted("".join(text) for text in itertools.product("ab", "cd", "ef", "ghi"))
    assert num_rejected > 0
    assert ask(service, **fields) == (texts, num_rejected)
    first_seen = list(dict.fromkeys(ask(service, **{**fields, "n": 120, "unique": False})[0]))
    assert texts[: len(first_seen)] == first_seen[:24]


def test_a_window_smaller_than_n_changes_no_text(start_service):
    wide, narrow = start_service(), start_service(max_running=3)
    for fields in (
        {"n": 40, "prompt": ["abc", "", "xy"], "max_tokens": 9},
        {"n": 20, "echo": True, "logprobs": 2},
        {"n": 9, "max_tokens": 0, "echo": True},
        {"n": 20, "unique": True, "guided_regex": "[a-f]{2}", "prompt": ["abc", "q"]},
        {"model": "characters backward", "prompt": None, "suffix": "abc", "n": 11},
    ):
        assert ask(narrow, **fields) == ask(wide, **fields)
    assert max(len(call.sequences) for call in narrow.backend.calls) <= 3


def test_a_request_takes_no_more_of_the_queue_than_its_window(start_service):
    service = start_service(max_running=3, max_queued=0)
    builder = service.start(n=40)
    for _ in builder.client_deltas():
        assert len(builder.request.sequences) <= 3
    assert len(builder.request.finish_reasons) == 40


def test_cached_tokens_are_those_of_the_prompt_once(start_service):
    service = start_service(max_running=2, prefix_cache_bytes=10**6)
    for num_cached_tokens in (0, 4):
        builder = service.start(n=9, prompt="abcde")
        builder.results()
        assert builder.request.num_cached_tokens == num_cached_tokens
        assert builder.request.num_prompt_tokens == 5
        builder.request.close()


def refuse_more(service, count):
    """Make admission control refuse the next `count` attempts that are not the first of their request."""
    open_admission, refused = service.admission.open, []

    def opening(context):
        admission = open_admission(context)
        admit, attempts = admission.admit, []

        def refusing(costs):
            attempts.append(costs)
            if len(attempts) > 1 and len(refused) < count:
                refused.append(costs)
                raise Overloaded("the queue is full")
            return admit(costs)

        admission.admit = refusing
        return admission

    service.admission.open = opening
    return refused


@pytest.mark.parametrize("fields", [{"n": 7}, {"n": 9, "unique": True, "guided_regex": "[a-d]{2}"}], ids=str)
def test_choices_that_are_not_admitted_now_are_submitted_later(start_service, fields):
    service = start_service(max_running=2, max_queued=0)
    alone = ask(service, **fields)
    refused = refuse_more(service, 5)
    assert ask(service, **fields) == alone
    assert len(refused) == 5


def test_copies_of_the_training_text_are_replaced(service):
    seen = []

    def contains(token_ids, text, prompt_ids):
        seen.append((token_ids, text, prompt_ids))
        return text[2] in "bc"

    service.training_filters.contains = contains
    texts, num_rejected = ask(service, n=12, not_in_training=True, guided_regex="[a-d]{3}", prompt="xy")
    assert not any(text[0] in "bc" for text in texts)
    assert len(texts) == 12
    assert num_rejected == len(seen) - 12 > 0
    assert all(text.startswith("xy") and len(text) == 5 for _, text, _ in seen)
    assert {(len(ids), len(prompt_ids)) for ids, _, prompt_ids in seen} == {(3, 2)}


def test_candidates_do_not_keep_their_prompt(service):
    """10,000 choices after a prompt of 131,072 characters would be more than a gigabyte."""
    prompt = "abcdefghij" * 100
    builder = service.start(n=20, unique=True, prompt=prompt, guided_regex="[a-z]{8}")
    builder.results()
    builder.request.close()
    assert {len(text) for text in builder._outputs[0].candidates._accepted} == {8}


def test_a_copy_is_recognized_however_its_prompt_is_written(service):
    """The filter of a model of words has its documents in lower case and without punctuation."""
    seen = []
    service.training_filters.contains = lambda _, text, __: seen.append(text)
    ask(service, n=3, not_in_training=True, model="words", prompt="The CAT, ")
    assert len(seen) == 3
    assert all(re.fullmatch("the cat( [a-z0-9]+)+", text) for text in seen)


def test_a_model_without_a_filter_refuses_not_in_training(service):
    told = "not_in_training must be false for model 'characters': version 1 has no training filter"
    with pytest.raises(InvalidRequest, match=told):
        ask(service, not_in_training=True)


def test_if_too_few_texts_exist_there_are_fewer_choices(service):
    texts, num_rejected = ask(service, n=10, unique=True, guided_choice=["ab", "cd"])
    assert sorted(texts) == ["ab", "cd"]
    assert num_rejected == 188


def test_the_index_names_the_prompt_also_if_a_prompt_has_fewer_choices_than_n(service):
    fields = {"n": 3, "unique": True, "guided_regex": "a|b", "prompt": ["abc", "xy"], "max_tokens": 1}
    builder = service.start(**fields)
    whole = json.loads(CompletionResponse(builder, lambda _: None).whole())["choices"]
    assert [choice["index"] // 3 for choice in whole] == [0, 0, 1, 1]
    builder = service.start(stream=True, **fields)
    events = b"".join(CompletionResponse(builder, lambda _: None).events()).split(b"\n\n")
    streamed = [json.loads(line[6:])["choices"][0] for line in events if line.startswith(b"data: {")]
    assert {(each["index"], each["text"]) for each in streamed} == {(each["index"], each["text"]) for each in whole}


@pytest.mark.parametrize("greedy", [{"temperature": 0.0}, {"temperature": 1e-5}, {"top_k": 1}, {"top_p": 0.0}], ids=str)
def test_greedy_choices_cannot_be_unique(service, greedy):
    """The second one would be generated and rejected a hundred times."""
    with pytest.raises(InvalidRequest, match=r"n must be 1 with unique and greedy decoding .* got 2") as caught:
        ask(service, n=2, unique=True, **greedy)
    assert caught.value.param == "n"
    assert len(ask(service, n=1, unique=True, **greedy)[0]) == 1


def test_a_greedy_copy_is_not_generated_again(service):
    service.training_filters.contains = lambda *_: True
    assert ask(service, not_in_training=True, temperature=0.0) == ([], 1)


@pytest.mark.parametrize("fields", [{"unique": True, "n": 3}, {"not_in_training": True}], ids=str)
@pytest.mark.parametrize("prompt", ["a", "abc"])
def test_where_nothing_is_generated_no_choice_is_replaced(service, prompt, fields):
    """A sequence without tokens to sample would never finish, or fail the scheduler, and with it all requests."""
    service.training_filters.contains = lambda *_: True
    texts, num_rejected = ask(service, prompt=prompt, max_tokens=0, **fields)
    assert (texts, num_rejected) == (([""], 2) if "unique" in fields else ([], 1))


def test_a_complete_match_is_not_continued_for_a_unique_choice(service):
    state = service.results(guided_regex="a|b", return_state=True)[0].resume_token
    assert ask(service, prompt="", state=state, seed=None, n=3, unique=True) == ([""], 2)


def test_replaced_choices_are_charged(service):
    charged = []

    def charge(count, *_):
        charged.append(count)
        if len(charged) > 5:
            raise RateLimited("enough", retry_after_s=1.0)
        return lambda: None

    fields = {"n": 10, "unique": True, "guided_choice": ["ab", "cd"], "max_tokens": 5}
    builder = service.start(**fields, context=RequestContext(charge=charge))
    with pytest.raises(RateLimited):
        builder.results()
    assert charged[0] >= 50
    assert set(charged[2:]) == {5}
    builder.request.close()


@pytest.mark.parametrize("error", [RateLimited("enough"), RuntimeError("a defect")], ids=repr)
def test_a_failed_stream_returns_every_accepted_choice(start_service, error):
    service = start_service(max_running=1)
    fields = {"n": 4, "unique": True, "guided_choice": ["ab", "cd", "ef"], "max_tokens": 5, "seed": 1}
    accepted = sorted(set(ask(service, **fields)[0]))

    def charge(count, *_):
        if count == 5:
            raise error
        return lambda: None

    builder = service.start(stream=True, **fields, context=RequestContext(charge=charge))
    events = list(CompletionResponse(builder, lambda _: None).events())
    builder.request.close()
    streamed = [json.loads(line[6:]) for line in b"".join(events).split(b"\n\n") if line.startswith(b"data: {")]
    texts = [choice["text"] for event in streamed for choice in event.get("choices", ())]
    assert texts
    assert set(texts) <= set(accepted)
    assert "error" in streamed[-1]
    # Whatever was accepted before the first rejection.
    assert len(texts) == len(set(texts)) == builder._outputs[0].candidates.num_accepted


def test_a_choice_is_streamed_as_soon_as_it_has_finished(start_service):
    service = start_service(max_running=1)
    builder = service.start(n=3, stream=True)
    events = list(CompletionResponse(builder, lambda _: None).events())
    builder.request.close()
    ends = [number for number, event in enumerate(events) if b'"finish_reason": "' in event]
    # The last choice ends in the last chunk, with [DONE].
    assert len(ends) == 3
    assert ends[-1] == len(events) - 1


def test_choices_without_tokens_hold_memory_and_are_streamed_in_parts(start_service):
    """10,000 choices of an empty prompt would be 20 MB that nothing counts, and one chunk of 4 MB."""
    service, budget = start_service(), MemoryBudget(2**30)
    fields = {"n": 1000, "max_tokens": 0, "stream": True}
    builder = service.start(**fields, context=RequestContext(memory=MemoryLease(budget)))
    assert budget.num_bytes > 1000 * 1500
    chunks = list(CompletionResponse(builder, lambda _: None).events())
    builder.request.close()
    assert b"".join(chunks).count(b'"finish_reason": "length"') == 1000
    assert max(map(len, chunks)) < 2**17


@pytest.mark.parametrize(("timeout_s", "error"), [(60.0, ClientGone), (0.5, DeadlineExceeded)])
def test_a_disconnect_or_the_deadline_ends_a_request_whose_choices_are_never_admitted(start_service, timeout_s, error):
    service = start_service(max_running=1, max_queued=0)
    refused = refuse_more(service, 10**6)
    builder = service.start(n=3, timeout_s=timeout_s)
    if error is ClientGone:
        threading.Timer(0.2, builder.request.cancel).start()
    with pytest.raises(error):
        builder.results()
    assert refused
    builder.request.close()
