"""Save and resume: a completion over several requests is that of one, wherever it is cut and however it ends."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.context import RequestContext
from service.errors import DeadlineExceeded, InvalidRequest, ShuttingDown, StateRefused
from service.scheduling.sequence import ModelVersion
from tests.fakes import END, FakeBackend
from tests.unit.service.engines import CHARACTERS, Service
from tests.waiting import until

TOTAL = 40
CHUNK = 8  # tokens that the fake model samples in a call
KINDS = ["characters", "words", "characters backward", "words backward"]


@pytest.fixture(scope="module")
def service():
    service = Service(prefix_cache_bytes=10**6)
    yield service
    service.scheduler.stop()


def ask(service, *prompts, tenant="", **fields):
    """Return the results of a request that asks for resume tokens."""
    generation = service.start(*prompts, **{"return_state": True, **fields}, context=RequestContext(tenant=tenant))
    try:
        return generation.results()
    finally:
        generation.request.close()


def given_text(model, text):
    return {"prompt": "", "suffix": text} if "backward" in model else {"prompt": text, "suffix": ""}


def parts(service, model, lengths, state=None, text="abc", **fields):
    """Return the results of successive requests, each resuming the one before, until the sequence finishes."""
    found = []
    for length in lengths:
        wanted = {**given_text(model, "" if state else text), "model": model, "max_tokens": length, **fields}
        if state:
            wanted |= {"seed": None, "state": state}
        found += ask(service, **wanted)
        state = found[-1].resume_token
        if found[-1].finish_reason == "stop":
            break
    return found


def joined(results, model):
    """Return the text of results, and its tokens with logprobs and offsets, in reading order."""
    rows, text = [], ""
    for result in results[::-1] if "backward" in model else results:
        if (found := result.logprobs) is not None:
            # A backward model's token whose text is held back has the offset 0 until its beginning is known.
            places = [0 if "backward" in model else len(text) + offset for offset in found.text_offset]
            rows += zip(found.tokens, found.token_logprobs, found.top_logprobs, places, strict=True)
        text += result.text
    return text, rows


def require_same(split, whole, model):
    """Fail unless resumed results equal those of one request, except for tokens of a stop string across a cut.

    The earlier request has returned those, before the stop string was complete.
    """
    (text, rows), (expected, wanted) = joined(split, model), joined(whole, model)
    extra = len(rows) - len(wanted)
    assert (text, split[-1].finish_reason) == (expected, whole[-1].finish_reason)
    assert (rows[extra:] if "backward" in model else rows[: len(wanted)]) == wanted
    assert extra == 0 or (len(split) > 1 and split[-1].finish_reason == "stop")


def endless(service, max_tokens, **fields):
    """Return a seed with which no choice reaches its EOS token, and the choices' texts."""
    for seed in range(100):
        results = ask(service, "abc", seed=seed, max_tokens=max_tokens, **fields)
        if {result.finish_reason for result in results} == {"length"}:
            return seed, [result.text for result in results]
    raise AssertionError("no seed does")


SAMPLINGS = [{}, {"frequency_penalty": 2.0}, {"top_k": 5, "temperature": 0.5}]
SAMPLINGS += [{"frequency_penalty": 1.0, "repetition_penalty": 1.5, "logit_bias": {"5": 2.0}}]


@pytest.mark.parametrize("model", KINDS)
@settings(deadline=None, max_examples=60)
@given(
    cuts=st.lists(st.integers(1, TOTAL - 1), max_size=4),
    seed=st.integers(0, 30),
    sampling=st.sampled_from(SAMPLINGS),
    stop=st.sampled_from([[], ["b"], ["th", "hq"], ["ab", "ba", "aa"], ["w1", "t w"], ["e", " "]]),
    logprobs=st.sampled_from([None, 0, 2]),
)
def test_a_resumed_completion_is_that_of_one_request(service, model, cuts, seed, sampling, stop, logprobs):
    fields = {"seed": seed, **sampling, "stop": stop, "logprobs": logprobs}
    whole = parts(service, model, [TOTAL], **fields)
    bounds = [0, *sorted(set(cuts)), TOTAL]
    split = parts(service, model, [b - a for a, b in itertools.pairwise(bounds)], **fields)
    require_same(split, whole, model)


@pytest.mark.parametrize("model", KINDS)
@settings(deadline=None, max_examples=40)
@given(
    interval=st.integers(1, TOTAL + 1),
    seed=st.integers(0, 30),
    sampling=st.sampled_from(SAMPLINGS),
    stop=st.sampled_from([[], ["b"], ["th", "hq"], ["ab", "ba", "aa"], ["e", " "]]),
    logprobs=st.sampled_from([None, 0]),
)
def test_a_stream_with_resume_tokens_is_unchanged_and_resumes_from_each(
    service, model, interval, seed, sampling, stop, logprobs
):
    """A resume token in a stream covers the text up to and including its delta; the final delta has none.

    Log probabilities, too: while those of a token wait for its text there is no resume token.
    """
    fields = {**given_text(model, "abc"), "model": model, "seed": seed, **sampling, "stop": stop, "logprobs": logprobs}
    plain = service.start(max_tokens=TOTAL, **fields)
    whole = plain.results()
    kept = service.start(max_tokens=TOTAL, **fields, prepend=True, state_interval=interval)
    assert kept.prepends == ("backward" in model)
    deltas, states, num_before = [], [], 0
    for piece in kept.client_deltas():
        deltas.append(piece)
        if piece.resume_token:
            assert kept.request.num_completion_tokens - num_before >= interval
            num_before = kept.request.num_completion_tokens
            states.append((deltas.copy(), num_before, piece.resume_token))
    kept.request.close()
    assert (texts_and_tokens(deltas, model), piece.finish_reason) == (
        texts_and_tokens(whole, model),
        whole[0].finish_reason,
    )
    assert piece.resume_token is None
    assert logprobs is not None or len(states) >= (plain.request.num_completion_tokens - 1) // (interval + CHUNK)
    for before, num_tokens, state in states:
        rest = {**fields, **given_text(model, ""), "seed": None, "state": state, "max_tokens": TOTAL - num_tokens}
        results = service.start(**rest).results()
        assert texts_and_tokens([*before, *results], model) == texts_and_tokens(whole, model)
        assert results[-1].finish_reason == whole[0].finish_reason


def texts_and_tokens(results, model):
    """Return the text of results, and its tokens with log probabilities."""
    text, rows = joined(results, model)
    return text, [row[:3] for row in rows]


def test_a_possible_stop_string_delays_no_resume_token(service):
    seed, (text,) = endless(service, TOTAL)
    fields = {"seed": seed, "max_tokens": TOTAL}
    for held_back in (text[:20], text[-1:]):
        generation = service.start("abc", **fields, stop=[held_back + "\0"], state_interval=CHUNK)
        deltas = list(generation.client_deltas())
        assert "".join(piece.text for piece in deltas) == text
        assert [bool(piece.resume_token) for piece in deltas] == [True] * (len(deltas) - 1) + [False]
        assert len(deltas) == TOTAL // CHUNK
    assert deltas[-1].finish_reason == "length"


@pytest.mark.parametrize("model", KINDS)
def test_a_stop_string_across_a_cut_is_found_on_resuming(service, model):
    (plain,) = parts(service, model, [TOTAL], seed=3)
    middle = len(plain.text) // 2
    stop = plain.text[middle : middle + 6]
    fields = {"seed": 3, "stop": [stop], "logprobs": 1}
    whole = parts(service, model, [TOTAL], **fields)
    assert whole[0].finish_reason == "stop"
    for cut in range(1, TOTAL):
        require_same(parts(service, model, [cut, TOTAL - cut], **fields), whole, model)


@pytest.mark.parametrize("model", KINDS)
def test_resuming_after_a_stop_string_continues_the_same_sequence(service, model):
    (plain,) = parts(service, model, [TOTAL], seed=5)
    middle = len(plain.text) // 2
    for length in (1, 2, 5):
        stop = plain.text[middle : middle + length]
        first = parts(service, model, [TOTAL], seed=5, stop=[stop])[0]
        assert first.finish_reason == "stop"
        rest = parts(service, model, [TOTAL], state=first.resume_token)[0]
        texts = (first.text, stop, rest.text)
        together = "".join(texts[::-1] if "backward" in model else texts)
        assert plain.text in together
        assert together.endswith(plain.text) if "backward" in model else together.startswith(plain.text)


def test_a_resume_token_has_reproducible_branches(service):
    (first,) = ask(service, "abc", seed=2, max_tokens=10)
    (whole,) = ask(service, "abc", seed=2, max_tokens=30)
    branches = [result.text for result in ask(service, "", state=first.resume_token, seed=None, n=5, max_tokens=20)]
    assert first.text + branches[0] == whole.text
    assert len(set(branches)) == 5
    again = ask(service, "", state=first.resume_token, seed=None, n=5, max_tokens=20)
    assert [result.text for result in again] == branches
    deeper = ask(service, "", state=again[3].resume_token, seed=None, n=3, max_tokens=10)
    assert len({result.text for result in deeper}) == 3
    (other,) = ask(service, "", state=first.resume_token, seed=7, max_tokens=20)
    assert other.text not in branches


def test_a_prompt_is_read_after_a_resumed_state(service):
    (first,) = ask(service, "abc", seed=2, max_tokens=10)
    prompts = ("xyz", CHARACTERS.decode([10, 11]), "")
    results = ask(service, *prompts, state=first.resume_token, seed=4, max_tokens=12, n=2)
    long = "abc" + first.text
    (scored,) = ask(service, "xyz", state=first.resume_token, seed=4, max_tokens=0, echo=True, logprobs=1)
    (whole,) = ask(service, long + "xyz", seed=4, max_tokens=0, echo=True, logprobs=1)
    assert scored.text == "xyz"
    assert scored.logprobs.token_logprobs == whole.logprobs.token_logprobs[-3:]
    assert None not in scored.logprobs.token_logprobs
    assert len({result.text for result in results}) == 6
    (further,) = ask(service, "", state=results[0].resume_token, seed=None, max_tokens=6)
    (longer,) = ask(service, "xyz", state=first.resume_token, seed=4, max_tokens=18)
    assert results[0].text + further.text == longer.text


def test_text_held_back_comes_before_the_prompt_of_the_next_request(service):
    """A prompt rules out the possible stop string, so the text is returned, ahead of the echo."""
    seed, (plain,) = endless(service, 20)
    stop = plain[9:11] + "?"
    firsts = [ask(service, "abc", seed=seed, max_tokens=length, stop=[stop])[0] for length in range(9, 16)]
    first = next(result for result in firsts if opened(service, result).held_back == plain[9:11])
    assert first.text == plain[:9]
    (scored,) = ask(service, "xyz", state=first.resume_token, seed=None, echo=True, logprobs=0, max_tokens=0)
    assert (scored.text, scored.logprobs.text_offset) == (plain[9:11] + "xyz", [2, 3, 4])
    (second,) = ask(service, "xyz", state=first.resume_token, seed=None, echo=True, max_tokens=5)
    assert second.text.startswith(plain[9:11] + "xyz")
    (bare,) = ask(service, "xyz", state=first.resume_token, seed=None, max_tokens=5)
    assert bare.text == second.text.replace("xyz", "", 1)


@pytest.mark.parametrize(("prompt", "num_choices"), [("abcdefgh", 1), ("abcdefgh", 3), ("a", 2), ("", 1)])
def test_max_tokens_0_returns_the_state_after_the_prompt(service, prompt, num_choices):
    read = ask(service, prompt, seed=6, max_tokens=0, n=num_choices)
    whole = ask(service, prompt, seed=6, max_tokens=15, n=num_choices)
    assert [(result.text, result.finish_reason) for result in read] == [("", "length")] * num_choices
    again = ask(service, prompt, seed=6, max_tokens=0, n=num_choices)
    for results in (read, again):
        later = [ask(service, "", state=result.resume_token, seed=None, max_tokens=15)[0].text for result in results]
        assert later == [result.text for result in whole]


def opened(service, result):
    return service.engine._resume_tokens.open(result.resume_token, "")


def test_a_finished_sequence_resumes_after_its_eos_token(service):
    for seed in range(100):
        (first,) = ask(service, "abc", seed=seed, max_tokens=TOTAL, logprobs=0)
        if first.finish_reason == "stop":
            break
    saved = opened(service, first)
    assert saved.unread_ids.tolist() == [END]
    num_generated = saved.num_sampled
    drawn = [CHARACTERS.tokens.index(token) for token in first.logprobs.tokens]
    assert num_generated == len(drawn) + 1
    (after,) = ask(service, "xyz", state=first.resume_token, seed=1, max_tokens=0, echo=True, logprobs=0)
    ids = [*CHARACTERS.encode("abc"), *drawn, END, *CHARACTERS.encode("xyz")]
    (whole,) = ask(service, ids, seed=1, max_tokens=0, echo=True, logprobs=0)
    assert after.logprobs.token_logprobs == whole.logprobs.token_logprobs[-3:]


def test_a_checkpoint_has_few_unread_tokens(service):
    for _ in range(2):
        (first,) = ask(service, "abcdefghijklmnopqrstuvwxyz", seed=1, max_tokens=TOTAL)
        (cut,) = ask(service, "abcdefghijklmnopqrstuvwxyz", seed=1, max_tokens=TOTAL, stop=[first.text[1:3]])
        assert len(opened(service, first).unread_ids) == 1
        assert len(opened(service, cut).unread_ids) < 10


def test_a_checkpoint_has_the_token_counts_that_penalties_need(service):
    fields = {"seed": 3, "max_tokens": 10, "logprobs": 0}
    (plain,) = ask(service, "abc", **fields)
    assert not opened(service, plain).token_counts
    (token_counts,) = ask(service, "abc", **fields, frequency_penalty=1.0)
    (repeated,) = ask(service, "abc", **fields, repetition_penalty=2.0)
    for result, prompt in ((token_counts, ""), (repeated, "abc")):
        drawn = Counter(CHARACTERS.tokens.index(token) for token in result.logprobs.tokens)
        if result.finish_reason == "stop":
            drawn[END] = 1
        expected = {**dict.fromkeys(CHARACTERS.encode(prompt), 0), **drawn}
        assert dict(opened(service, result).token_counts) == expected


def cut_short(service, generation, num_calls):
    """Stop a scheduler, of one call at a time, after the first calls of a request."""
    service.backend.release(num_calls)
    until(lambda: len(service.backend.calls) == num_calls + 1)
    service.scheduler.stop(ShuttingDown("good night"))
    with pytest.raises(ShuttingDown):
        generation.results()


@pytest.mark.parametrize("how", ["deadline", "drain"])
def test_a_request_that_is_cut_short_has_partial_outputs(start_service, how):
    other = start_service()
    seed, expected = endless(other, 60, n=2)
    backend = FakeBackend(held=True)
    service = start_service(backend, max_calls=1)
    fields = {"seed": seed, "max_tokens": 60, "n": 2, "return_state": True}
    fields["timeout_s"] = 2.0 if how == "deadline" else 60.0
    generation = service.start("abc", **fields)
    if how == "drain":
        cut_short(service, generation, num_calls=3)
    else:
        backend.release(3)
        with pytest.raises(DeadlineExceeded):
            generation.results()
    rest = generation.partial_outputs()
    generation.request.close()
    assert [result.index for result in rest] == [0, 1]
    for result, text in zip(rest, expected, strict=True):
        assert 0 < len(result.text) < 60
        assert result.finish_reason is None
        (later,) = ask(other, "", state=result.resume_token, seed=None, max_tokens=60)
        assert (result.text + later.text).startswith(text)


@pytest.mark.parametrize("is_gone", [False, True], ids=["not requested", "version gone"])
def test_partial_outputs_without_resume_tokens_include_held_back_text(start_service, is_gone):
    """No request will resume them, so a possible stop string is shown as text."""
    other = start_service()
    seed, (plain,) = endless(other, 60)
    texts = []
    for _ in range(2):
        # The second time the last character may begin one, and is held back.
        stop = [text[-1] + "?" for text in texts]
        service = start_service(FakeBackend(held=True), max_calls=1)
        generation = service.start("abc", seed=seed, max_tokens=60, stop=stop, return_state=is_gone)
        cut_short(service, generation, num_calls=2)
        (result,) = generation.partial_outputs(with_resume_tokens=not is_gone)
        generation.request.close()
        assert (result.index, result.finish_reason, result.resume_token) == (0, None, None)
        texts.append(result.text)
    assert texts[0] == texts[1]
    assert 0 < len(texts[0]) < 20
    assert plain.startswith(texts[0])


def test_return_state_adds_a_resume_token_to_the_final_delta(service):
    (whole,) = ask(service, "abc", seed=2, max_tokens=30)
    generation = service.start("abc", seed=2, max_tokens=30, stream=True, return_state=True)
    deltas = list(generation.client_deltas())
    assert [piece.resume_token is not None for piece in deltas] == [piece.finish_reason is not None for piece in deltas]
    assert generation.partial_outputs() == []
    generation.request.close()
    (one,) = ask(service, "", state=whole.resume_token, seed=None, max_tokens=9)
    (other,) = ask(service, "", state=deltas[-1].resume_token, seed=None, max_tokens=9)
    assert one.text == other.text


def test_a_resume_token_of_another_tenant_model_or_version_is_refused(service):
    (first,) = ask(service, "abc", seed=2, max_tokens=5, tenant="anna")
    assert ask(service, "", state=first.resume_token, seed=None, max_tokens=5, tenant="anna")
    with pytest.raises(StateRefused, match="another tenant"):
        ask(service, "", state=first.resume_token, seed=None, tenant="bert")
    with pytest.raises(StateRefused, match=r"'words'.*'characters'") as caught:
        ask(service, "", state=first.resume_token, seed=None, tenant="anna", model="words")
    assert caught.value.code == "state_of_another_model"
    tokens = service.engine._resume_tokens
    saved = tokens.open(first.resume_token, "anna")
    gone = tokens.seal(replace(saved, model=ModelVersion("characters", 7)), "anna")
    replaced = tokens.seal(replace(saved, weights_sha256="f" * 64), "anna")
    for token in (gone, replaced):
        with pytest.raises(StateRefused, match="no longer served; version 1 is") as caught:
            ask(service, "", state=token, seed=None, tenant="anna")
        assert (caught.value.code, caught.value.status) == ("state_outdated", 410)


@pytest.mark.parametrize("model", ["characters", "characters backward"])
def test_an_end_during_prefill_loses_no_held_back_text(start_service, service, model):
    plains = ((seed, *parts(service, model, [20], seed=seed, text="abcabc")) for seed in range(100))
    seed, plain = next((seed, plain) for seed, plain in plains if plain.finish_reason == "length")
    ending = plain.text[:2] if "backward" in model else plain.text[-2:]
    stop = "?" + ending if "backward" in model else ending + "?"
    first = parts(service, model, [20], seed=seed, text="abcabc", stop=[stop])[0]
    assert opened(service, first).held_back in (ending, ending[::-1])
    slow = start_service(FakeBackend(held=True), max_calls=1)
    slow.engine._resume_tokens = service.engine._resume_tokens
    fields = {**given_text(model, "xyz" * 9), "model": model, "state": first.resume_token, "seed": None, "logprobs": 0}
    fields |= {"echo": True, "max_tokens": 9, "return_state": True}
    generation = slow.start(**fields)
    cut_short(slow, generation, num_calls=1)
    (rest,) = generation.partial_outputs()
    generation.request.close()
    assert rest.text == ("xyz" * 9 + ending if "backward" in model else ending + "xyz" * 9)
    # One slice of the prompt has been read.
    assert len(opened(service, rest).unread_ids) == 12
    later = parts(service, model, [9], state=rest.resume_token)[0]
    (whole,) = ask(service, **{**fields, "logprobs": None, "echo": False})
    assert later.text in whole.text
    assert len(later.text) + len(ending) == len(whole.text)


def test_the_tokens_in_resume_tokens_are_limited(service):
    """The checkpoint of each choice may have to hold the whole prompt; the message names the limit."""
    with pytest.raises(InvalidRequest, match=r"resume tokens may contain at most 3000 tokens .*, got 3200"):
        ask(service, "a" * 100, n=32)
    assert len(ask(service, "a" * 100, n=32, return_state=False)) == 32


def test_unread_tokens_of_a_checkpoint_do_not_count_as_cached(service):
    (first,) = ask(service, "abc", seed=2, max_tokens=5)
    known = []
    for _ in range(2):
        generation = service.start("uvwuvw", state=first.resume_token, seed=None, max_tokens=3)
        generation.results()
        known.append((generation.request.num_prompt_tokens, generation.request.num_cached_tokens))
        generation.request.close()
    assert known == [(6, 0), (6, 5)]
