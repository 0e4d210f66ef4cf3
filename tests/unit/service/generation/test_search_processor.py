"""`top_texts` and `use_beam_search` on a fake model, against the enumeration of every text that sampling allows."""

import itertools
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.context import RequestContext
from service.errors import ClientGone, InvalidRequest, MemoryExhausted, Overloaded, RateLimited
from service.memory import MemoryBudget, MemoryLease
from tests.fakes import END, FakeBackend, fake_distribution, fake_step, states_after
from tests.unit.service.engines import CHARACTERS, SETTINGS
from tests.waiting import until

NEVER = CHARACTERS.special.never_sampled


def every_text(prompt, max_tokens, pattern=".*", min_tokens=0):
    """Return (log probability, token ids) of every text of up to `max_tokens` characters, the most probable first.

    Of a pattern that has no longer match, a text ends without the EOS token.
    """
    ids, found = CHARACTERS.encode(prompt), []

    def visit(text_ids, state, logprob):
        text = CHARACTERS.decode(text_ids)
        if text_ids and (text_ids[-1] == END or len(text_ids) == max_tokens):
            if re.fullmatch(pattern, text):
                found.append((logprob, text_ids))
            return
        state = fake_step((text_ids or ids)[-1], state)
        row = fake_distribution(state)
        for token_id in range(len(row)):
            if token_id not in NEVER and (token_id != END or len(text_ids) >= min_tokens):
                visit([*text_ids, token_id], state, logprob + float(row[token_id]))

    visit([], states_after(ids[:-1])[-1], 0.0)
    return sorted(found, key=lambda item: (-item[0], item[1]))


def choices(texts):
    finished = [(*text, "stop" if text[1][-1] == END else "length") for text in texts]
    return [(CHARACTERS.decode(ids), pytest.approx(logprob, abs=1e-9), reason) for logprob, ids, reason in finished]


def shown(results):
    return [(result.text, result.cumulative_logprob, result.finish_reason) for result in results]


@pytest.mark.parametrize("min_tokens", [0, 1])
def test_top_texts_are_the_most_probable_ones_of_each_prompt(service, min_tokens):
    prompts = ("abc", "hello")
    results = service.results(*prompts, top_texts=40, best_of=1, max_tokens=2, min_tokens=min_tokens)
    expected = [text for prompt in prompts for text in every_text(prompt, 2, min_tokens=min_tokens)[:40]]
    assert shown(results) == choices(expected)
    assert [result.index for result in results] == list(range(80))


@pytest.mark.parametrize("pattern", ["[abc]{1,3}", "a?b?c?d?"])
def test_top_texts_match_a_pattern(service, pattern):
    processor = service.start(top_texts=200, max_tokens=4, structured_outputs={"regex": pattern})
    results = processor.results()
    texts = {"".join(ids) for length in range(5) for ids in itertools.product("abcd", repeat=length)}
    assert sorted(result.text for result in results) == sorted(text for text in texts if re.fullmatch(pattern, text))
    logprobs = [result.cumulative_logprob for result in results]
    assert logprobs == sorted(logprobs, reverse=True)
    assert processor.limit_reached is False


def test_the_metrics_have_the_finish_reason_of_each_text(service):
    processor = service.start(top_texts=40, max_tokens=2)
    reasons = [result.finish_reason for result in processor.results()]
    processor.request.close()
    ((_, finished),) = service.listener.finished_requests
    assert finished["reasons"] == reasons
    assert set(reasons) == {"stop", "length"}


def test_a_text_of_several_token_sequences_is_returned_once(service):
    fields = {"model": "matches", "top_texts": 50, "max_tokens": 4, "guided_regex": r'(bc|12|"a":){2}'}
    texts = [result.text for result in service.results("a", **fields)]
    assert sorted(texts) == sorted("".join(parts) for parts in itertools.product(["bc", "12", '"a":'], repeat=2))


def test_a_search_that_reaches_its_limit_returns_what_it_has_found(start_service):
    service = start_service(max_search_tokens=30)
    processor = service.start("abc", top_texts=1000, max_tokens=2)
    results = processor.results()
    assert processor.limit_reached is True
    assert processor.request.num_completion_tokens <= 30
    assert shown(results) == choices(every_text("abc", 2)[: len(results)])


def test_a_search_that_finds_nothing_before_its_limit_is_an_error(start_service):
    service = start_service(max_search_tokens=8)
    with pytest.raises(InvalidRequest, match="top_texts: 8 tokens were computed before") as error:
        service.results("abc", top_texts=1, max_tokens=100, ignore_eos=True)
    assert error.value.param == "top_texts"


def test_the_length_penalty_divides_by_a_power_of_all_tokens_but_eos(service):
    """As in vLLM: the tokens of the prompt count."""
    results = service.results("abcd", use_beam_search=True, n=1400, max_tokens=2, length_penalty=3.0)
    scores = [(logprob / (4 + len(ids) - (ids[-1] == END)) ** 3, ids) for logprob, ids in every_text("abcd", 2)]
    expected = [CHARACTERS.decode(ids) for _, ids in sorted(scores, key=lambda item: (-item[0], item[1]))]
    assert [result.text for result in results[:100]] == expected[:100]


def test_best_of_is_the_beam_width(service):
    wide = service.results("abc", use_beam_search=True, n=20, max_tokens=3)
    assert service.results("abc", use_beam_search=True, n=3, best_of=20, max_tokens=3) == wide[:3]


def test_a_backward_model_searches_from_the_end(service):
    forward = service.results("abc", top_texts=9, max_tokens=2)
    backward = service.results(model="characters backward", prompt=None, suffix="cba", top_texts=9, max_tokens=2)
    assert [result.text for result in backward] == [result.text[::-1] for result in forward]


def test_a_key_is_charged_for_what_a_search_computes(service):
    charged = []
    processor = service.start("abc", top_texts=20, max_tokens=2, context=RequestContext(charge=spent(charged)))
    processor.results()
    assert charged[0] == 3
    assert len(charged) <= 2 + service.calls().count("next_logprobs")
    assert sum(charged[1:]) == processor.request.num_completion_tokens > 0


def spent(charged, limit=10**9):
    """Return a charge that notes the tokens of each call, up to a limit in all."""

    def charge(num_tokens, *_):
        charged.append(num_tokens)
        if sum(charged) > limit:
            raise RateLimited("too many", retry_after_s=1)
        return lambda: None

    return charge


def test_a_search_ends_at_the_limit_of_its_key(service):
    processor = service.start("abc", top_texts=500, max_tokens=3, context=RequestContext(charge=spent([], 30)))
    with pytest.raises(RateLimited):
        processor.results()
    processor.request.close()
    until(lambda: service.admission.num_sequences == 0)


def test_a_key_of_few_sequences_searches_with_fewer_at_once(service):
    limited = service.start("abc", top_texts=30, max_tokens=2, context=RequestContext(key="small", max_sequences=3))
    found = limited.results()
    assert max(len(call.sequences) for call in service.backend.calls) <= 2
    assert found == service.results("abc", top_texts=30, max_tokens=2)


def test_a_search_needs_room_in_the_queue(service):
    with pytest.raises(Overloaded):
        service.start("abc", top_texts=3, max_tokens=2, context=RequestContext(key="none", max_sequences=0))


def test_a_search_continues_beside_a_full_queue(service):
    search = service.start("abc", top_texts=3, max_tokens=3, timeout_s=2.0)
    until(search.request.queue.qsize)
    others = [service.admission.open(RequestContext()) for _ in range(SETTINGS.max_sequences - 1)]
    releases = [other.admit([1])[0] for other in others]
    with pytest.raises(Overloaded):
        service.start("abc")
    assert len(search.results()) == 3
    for release in (*releases, search.request.close, search.request.close):
        release()
    assert service.admission.num_sequences == 0


def test_a_search_holds_memory_for_what_it_keeps(service):
    budget = MemoryBudget(2**20)
    processor = service.start("abc", top_texts=500, max_tokens=3, context=RequestContext(memory=MemoryLease(budget)))
    with pytest.raises((InvalidRequest, MemoryExhausted), match="the search must need at most"):
        processor.results()


def test_a_search_holds_memory_for_the_expansions_of_all_prompts(service):
    """They are computed before the first prompt is searched."""
    budget = MemoryBudget(2**20)
    context = RequestContext(memory=MemoryLease(budget))
    with pytest.raises(InvalidRequest, match="the search must need at most"):
        service.start(*["abc"] * 100, top_texts=1, max_tokens=1, context=context)


@pytest.mark.parametrize("fields", [{"top_texts": 30}, {"use_beam_search": True, "n": 30}])
def test_a_search_is_the_same_among_other_requests(service, fields):
    alone = service.results("abc", max_tokens=3, **fields)
    others = [service.start("hello", max_tokens=200, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(other.results) for other in others]
        assert service.results("abc", max_tokens=3, **fields) == alone
    assert [each.exception() for each in running] == [None] * 8


def test_streams_go_on_beside_a_search(start_service):
    service = start_service(max_search_tokens=100_000, max_calls=1)
    search = service.start("abc", top_texts=70, max_tokens=40, ignore_eos=True)
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(search.results)
        until(lambda: service.calls().count("next_logprobs") > 20)
        num_before = len(service.calls())
        assert len(service.results("hello", n=8, max_tokens=64, ignore_eos=True)) == 8
        assert "next_logprobs" in service.calls()[num_before:]
        assert not searching.done()
        search.request.cancel()
        with pytest.raises(ClientGone):
            searching.result(timeout=10)
    search.request.close()
    until(lambda: service.admission.num_sequences == 0)


def test_a_cancelled_search_raises_and_frees_its_slots(start_service):
    service = start_service(FakeBackend(held=True))
    processor = service.start("abc", top_texts=3, max_tokens=2)
    threading.Timer(0.05, processor.request.cancel).start()
    with pytest.raises(ClientGone):
        processor.results()
    processor.request.close()
    service.backend.release(5)
    until(lambda: service.admission.num_sequences == 0)
