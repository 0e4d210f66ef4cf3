"""Completions on a fake model: prompts, choices, echo, logprobs, `best_of`, deadlines, charges and backward models."""

from dataclasses import replace

import numpy as np
import pytest

from service.api.requests import EmbeddingsRequest
from service.context import RequestContext
from service.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MemoryExhausted,
    Overloaded,
    RateLimited,
)
from service.generation.choice import TextDelta
from service.generation.logprobs import Logprobs
from service.scheduling.queues import BatchLimits
from service.scheduling.sequence import Result
from tests.fakes import VOCABULARY, FakeBackend, scores_of, states_after
from tests.unit.service.engines import CHARACTERS, Models, parsed, request
from tests.waiting import until


def expected_scores(token_ids):
    """Return the logprob of every token but the first, as responses have it."""
    return [round(score, 7) for score in scores_of(token_ids)]


def test_a_request_with_several_prompts_equals_one_request_per_prompt(service):
    together = service.results("abc", "hello", "", n=2)
    alone = [result for prompt in ("abc", "hello", "") for result in service.results(prompt, n=2)]
    assert together == [replace(result, index=index) for index, result in enumerate(alone)]
    assert len({result.text for result in together}) == 6
    ids = [CHARACTERS.encode(prompt) for prompt in ("abc", "hello", "")]
    assert service.results(*ids, n=2) == together


def test_logprobs_and_echo_do_not_change_the_completion(service):
    (plain,) = service.results()
    assert [service.results(logprobs=top)[0].text for top in (0, 1, 5)] == [plain.text] * 3
    assert service.results(logprobs=5, echo=True)[0].text == "abc" + plain.text
    assert service.results(echo=True)[0].text == "abc" + plain.text


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("length", [1, 2, 17, 40])
def test_every_token_has_its_logprob_and_text_offset(service, length, echo):
    prompt = ("abcdefghij" * 4)[:length]
    (result,) = service.results(prompt, logprobs=2, echo=echo)
    logprobs = result.logprobs
    # The fake model samples special tokens, too: the list has their names, but they have no text.
    told = [CHARACTERS.tokens.index(name) for name in logprobs.tokens]
    texts = [CHARACTERS.decode([token_id]) for token_id in told]
    assert "".join(texts) == result.text
    assert logprobs.text_offset == [sum(map(len, texts[:i])) for i in range(len(texts))]
    ids = told if echo else CHARACTERS.encode(prompt) + told
    scores = [None, *expected_scores(ids)][0 if echo else length :]
    assert logprobs.token_logprobs == scores
    for token, score, top in zip(logprobs.tokens, scores, logprobs.top_logprobs, strict=True):
        assert top is None if score is None else top[token] == score
        assert top is None or 2 <= len(top) <= 3


def test_max_tokens_0_with_echo_and_logprobs_scores_the_prompt(service):
    (one, two) = service.results("abcdefghij" * 3, "b", logprobs=0, echo=True, max_tokens=0)
    assert (one.text, one.finish_reason) == ("abcdefghij" * 3, "length")
    assert one.logprobs.token_logprobs == [None, *expected_scores(CHARACTERS.encode(one.text))]
    assert (two.text, two.logprobs.token_logprobs, two.logprobs.tokens) == ("b", [None], ["b"])
    assert set(service.calls()) == {"score"}


def test_only_the_requested_top_logprobs_of_a_prompt_are_computed(service):
    service.results("abcdefghij", logprobs=2, echo=True, max_tokens=0)
    service.results("abcdefghij", logprobs=0, echo=True, max_tokens=0)
    first, second = (call.inputs()["num_top"] for call in service.backend.calls)
    assert (first.max(), second.max()) == (2, 0)


def test_max_tokens_0_without_logprobs_makes_no_call(service):
    results = service.results("abc", "", max_tokens=0, n=2)
    assert [(result.text, result.finish_reason, result.logprobs) for result in results] == [("", "length", None)] * 4
    assert [result.text for result in service.results("abc", max_tokens=0, echo=True)] == ["abc"]
    assert service.calls() == []


def test_choices_of_one_prompt_share_its_scoring(service):
    results = service.results(n=3, logprobs=1, echo=True)
    assert service.calls().count("score") == 1
    assert len({tuple(result.logprobs.token_logprobs[:3]) for result in results}) == 1
    assert [result.text[:3] for result in results] == ["abc"] * 3
    assert len({result.text for result in results}) == 3


def mean_with_end(result, prompt):
    """Return the mean logprob of a completion, including the EOS token if it ended with that."""
    ids = CHARACTERS.encode(prompt) + [CHARACTERS.tokens.index(name) for name in result.logprobs.tokens]
    if result.finish_reason == "stop":
        ids.append(CHARACTERS.special.end)
    return np.mean(expected_scores(ids)[len(prompt) - 1 :])


def test_best_of_returns_the_choices_with_the_highest_mean_logprob(service):
    every = service.results(n=6, logprobs=0)
    means = [mean_with_end(result, "abc") for result in every]
    order = sorted(range(6), key=lambda i: means[i], reverse=True)
    best = [replace(every[i], index=index) for index, i in enumerate(order[:2])]
    assert service.results(n=2, best_of=6, logprobs=0) == best
    chosen = service.results(n=1, best_of=6)
    assert (chosen[0].text, chosen[0].logprobs) == (every[order[0]].text, None)


def test_text_offsets_of_words_refer_to_the_prompt_as_sent(service):
    """The echo is the client's own text, while the tokens are the model's, in lower case."""
    (result,) = service.results("The CAT, sat!", model="words", logprobs=1, echo=True, max_tokens=2)
    assert result.text.startswith("The CAT, sat! w")
    assert result.logprobs.text_offset[:4] == [0, 4, 9, 13]
    assert result.logprobs.tokens[:3] == ["the", " cat", " sat"]
    assert result.logprobs.tokens[3] == result.text[13 : 13 + len(result.logprobs.tokens[3])]


def test_joined_tokens_of_an_echo_are_its_text_where_it_has_unknown_characters(service):
    (result,) = service.results("a☃b\u2028", logprobs=1, echo=True, max_tokens=2)
    tokens, logprobs = result.logprobs.tokens, result.logprobs
    assert "".join(tokens) == result.text
    assert tokens[:4] == list("a☃b\u2028")
    assert [logprobs.top_logprobs[i][tokens[i]] for i in (1, 3)] == [logprobs.token_logprobs[i] for i in (1, 3)]
    assert not any("<unk>" in top for top in logprobs.top_logprobs[1:4])


def test_special_tokens_of_a_prompt_have_logprob_entries_but_no_text(service):
    ids = [CHARACTERS.special.start, *CHARACTERS.encode("ab")]
    (result,) = service.results(ids, logprobs=1, echo=True, max_tokens=0)
    assert result.text == "ab"
    assert result.logprobs.tokens == ["<end>", "a", "b"]
    assert result.logprobs.text_offset == [0, 0, 1]
    (result,) = service.results(ids[:1] * 2, logprobs=1, echo=True, max_tokens=1)
    assert result.logprobs.tokens[:2] == ["<end>", "<end>"]


def test_penalties_do_not_depend_on_the_decode_steps_of_a_call(start_service, service):
    (result,) = service.results(frequency_penalty=2.0, max_tokens=40)
    slow, model = start_service(), replace(Models().find("characters"), batch_limits=BatchLimits((8,), 1, 4))
    slow.engine._model_registry.find = lambda *_, **__: model
    assert slow.results(frequency_penalty=2.0, max_tokens=40) == [result]
    assert result != service.results(max_tokens=40)[0]
    assert "decode_full" in service.calls()


def test_a_deadline_removes_all_sequences_of_the_request(start_service):
    service = start_service(FakeBackend(held=True))
    with pytest.raises(DeadlineExceeded, match=r"within its timeout_s of 0\.1 seconds"):
        service.results(n=3, timeout_s=0.1)
    service.backend.release(1000)
    until(lambda: service.admission.num_sequences == 0)
    assert len(service.listener.cancelled_sequences) == 3


def test_a_request_is_charged_before_it_is_enqueued(service):
    charged = []
    caller = RequestContext(charge=lambda count, *_: charged.append(count) or (lambda: charged.append(-count)))
    generation = service.start("abc", "de", n=2, max_tokens=7, context=caller)
    generation.results()
    assert charged == [3 + 2 + 4 * 7]

    def refuse(*_):
        raise RateLimited("no")

    with pytest.raises(RateLimited):
        service.start(context=RequestContext(charge=refuse))
    assert service.admission.num_sequences == 0


def test_a_rejected_request_is_refunded(start_service):
    """Admission control decides after the charge, so a request that it refuses gets its tokens back."""
    service, charged = start_service(FakeBackend(held=True), max_running=1, max_queued=0), []

    def start():
        context = RequestContext(charge=lambda count, *_: charged.append(count) or (lambda: charged.append(-count)))
        return service.start(context=context)

    running = start()
    with pytest.raises(Overloaded):
        start()
    assert charged == [15, 15, -15]
    running.request.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RateLimited("no"), [10, -10]), (MemoryExhausted("no"), [10, 15, -15, -10]), (InvalidRequest("no"), [10, 15])],
    ids=["rate limit", "memory", "invalid"],
)
def test_tokens_stay_charged_only_if_the_request_is_invalid(error, expected):
    charged = []

    def charge(count, *_):
        if charged and isinstance(error, RateLimited):
            raise error
        charged.append(count)
        return lambda: charged.append(-count)

    def start_request():
        context = RequestContext(charge=charge)
        with context.refunds_on_failure():
            for num_tokens in (10, 10, 25):
                context.charge_up_to(num_tokens, "max_tokens")
            raise error

    with pytest.raises(type(error)):
        start_request()
    assert charged == expected


def test_a_limit_names_the_field_of_its_endpoint(service):
    context = RequestContext("key", max_queued_tokens=2)
    with pytest.raises(InvalidRequest) as of_embeddings:
        service.engine.start_embedding(embedding("d", "abc"), context)
    with pytest.raises(InvalidRequest) as of_completions:
        service.start("abc", n=3, context=context)
    assert of_embeddings.value.param == "input"
    assert of_completions.value.param == "max_tokens"


@pytest.mark.parametrize("return_state", [False, True])
def test_tokens_are_counted_only_for_a_resume_token(service, return_state):
    """The scheduler counts what penalties need. A count of a long prompt for each of many choices takes gigabytes."""
    fields = {"repetition_penalty": 1.5, "n": 3, "return_state": return_state}
    builder = service.start("abc", **fields)
    builder.results()
    builder.request.close()
    counts = [choice.checkpoint and choice.checkpoint.token_counts for choice in builder._choices.values()]
    assert list(map(bool, counts)) == [return_state] * 3


def test_a_failed_request_is_not_counted_as_cancelled(service):
    """Cancelled means that the client left or the deadline passed. Each failed request has its own error object."""
    service.backend.failures = [InternalError("refused")] * 2
    errors = []
    for _ in range(2):
        with pytest.raises(InternalError) as caught:
            service.results()
        errors.append(caught.value)
    assert service.listener.cancelled_sequences == []
    assert len(service.listener.finished_requests) == 2
    assert errors[0] is not errors[1]


def test_an_empty_completion_has_a_mean_logprob_below_zero(service):
    """The EOS token counts in the mean; else `best_of` would always choose a completion that ends at once."""
    every = [service.start(seed=seed, logprobs=0) for seed in range(60)]
    results = [(one.results()[0], one) for one in every]
    empty = [one for result, one in results if not result.text]
    assert empty, "choose other seeds"
    assert all(one._choices[0, 0].mean_logprob < 0 for one in empty)


def test_a_request_reports_its_tokens_and_times(service):
    service.results("abc", "de", n=2, max_tokens=20)
    ((_, finished),) = service.listener.finished_requests
    assert finished["num_prompt_tokens"] == 5
    assert sorted(finished["reasons"]) == ["length", "stop", "stop", "stop"]
    assert finished["num_completion_tokens"] > 20
    assert len(service.listener.first) == 1
    gaps = [count for _, _, count in service.listener.gaps]
    assert 0 < sum(gaps) < finished["num_completion_tokens"]
    assert min(gaps) > 0
    assert service.listener.cancelled_sequences == []


def embedding(*prompts, **fields):
    return parsed(EmbeddingsRequest, input=prompts, **fields)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_an_embedding_pools_the_outputs_of_all_tokens(service, pooling):
    prompts = ("abc", "", "hello world" * 5)
    job = service.engine.start_embedding(embedding(*prompts, pooling=pooling), RequestContext())
    vectors = job.vectors()
    job.request.close()
    for prompt, vector in zip(prompts, vectors, strict=True):
        outputs = states_after(CHARACTERS.encode(prompt) or [CHARACTERS.special.start])[1:]
        pooled = np.sum(outputs, 0, np.float32) / len(outputs) if pooling == "mean" else outputs[-1]
        np.testing.assert_array_equal(vector, pooled)
    assert set(service.calls()) == {"embed"}
    assert service.listener.finished_requests[0][1]["num_prompt_tokens"] == 58


def test_dimensions_must_equal_the_width_of_the_model(service):
    with pytest.raises(InvalidRequest, match=r"dimensions must be 4, .*, got 5"):
        service.engine.start_embedding(embedding("a", dimensions=5), RequestContext())


BACKWARD = "characters backwards"


def from_the_end(*suffixes, **fields):
    return request("", suffix=suffixes, **{"model": BACKWARD, **fields})


def begun(service, wanted):
    return service.engine.start_completion(wanted, RequestContext())


def mirrored(result):
    """Return a forward result as a backward model would give it: the fake model has no direction."""
    logprobs, text = result.logprobs, result.text
    if logprobs is not None:
        widths = [len(CHARACTERS.decode([CHARACTERS.tokens.index(token)])) for token in logprobs.tokens]
        offsets = [len(text) - offset - width for offset, width in zip(logprobs.text_offset, widths, strict=True)]
        lists = (logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, offsets)
        logprobs = Logprobs(*(values[::-1] for values in lists))
    return TextDelta(result.index, text[::-1], result.finish_reason, logprobs)


@pytest.mark.parametrize(
    "fields",
    [
        *({}, {"echo": True}, {"n": 3, "best_of": 5}, {"logprobs": 2, "max_tokens": 40}),
        *({"logprobs": 0, "echo": True, "n": 2}, {"echo": True, "max_tokens": 0, "logprobs": 1}),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["", "a", "abcdefghij" * 4])
def test_a_backward_completion_mirrors_the_forward_one(service, suffix, fields):
    forwards = service.results(suffix[::-1], **fields)
    assert begun(service, from_the_end(suffix, **fields)).results() == [mirrored(result) for result in forwards]


@pytest.mark.parametrize("num_left", [6, 0])
@pytest.mark.parametrize("echo", [False, True])
def test_stop_strings_of_a_backward_model_are_in_reading_order(service, echo, num_left):
    (whole,) = begun(service, from_the_end("abc", logprobs=1, max_tokens=30)).results()
    stop = whole.text[-num_left - 2 :][:2]
    (result,) = begun(service, from_the_end("abc", logprobs=1, max_tokens=30, stop=[stop, "??"], echo=echo)).results()
    left = whole.text[whole.text.rindex(stop) + 2 :]
    assert len(left) == num_left
    assert (result.text, result.finish_reason) == (left + "abc" * echo, "stop")
    assert "".join(result.logprobs.tokens) == result.text
    assert result.logprobs.text_offset == list(range(len(result.text)))
    scores = whole.logprobs.token_logprobs[len(whole.text) - num_left :]
    assert result.logprobs.token_logprobs[:num_left] == scores
    assert result.logprobs.token_logprobs[-1:] == ([None] if echo else scores[-1:])


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("num_top", [None, 1])
def test_text_deltas_of_a_backward_model_are_prepended(service, num_top, echo):
    wanted = {"logprobs": num_top, "echo": echo, "n": 2, "max_tokens": 30, "stop": ["q"]}
    whole = begun(service, from_the_end("abc", **wanted)).results()
    generation = begun(service, from_the_end("abc", **wanted, prepend=True))
    texts, told, deltas = ["", ""], [Logprobs(), Logprobs()], list(generation.client_deltas())
    assert generation.prepends
    assert len(deltas) > 4
    for piece in deltas:
        texts[piece.index] = piece.text + texts[piece.index]
        if num_top is not None:
            assert all(0 <= offset <= len(piece.text) for offset in piece.logprobs.text_offset)
            earlier, told[piece.index] = told[piece.index], Logprobs()
            told[piece.index].extend(piece.logprobs)
            told[piece.index].extend(earlier, shift=len(piece.text))
    assert texts == [result.text for result in whole]
    assert [result.logprobs for result in whole] == ([None, None] if num_top is None else told)


@pytest.mark.parametrize("num_top", [None, 1])
def test_without_prepend_a_backward_choice_is_streamed_as_one_delta(service, num_top):
    wanted = {"logprobs": num_top, "echo": True, "n": 2, "max_tokens": 30}
    whole = begun(service, from_the_end("abc", **wanted)).results()
    generation = begun(service, from_the_end("abc", **wanted))
    deltas = sorted(generation.client_deltas(), key=lambda piece: piece.index)
    assert not generation.prepends
    assert deltas == whole


@pytest.mark.parametrize("num_top", [None, 1])
def test_a_backward_word_model_generates_the_text_before_a_suffix(service, num_top):
    wanted = {"model": "words backwards", "logprobs": num_top, "echo": True, "max_tokens": 2}
    (result,) = begun(service, from_the_end("The CAT, sat!", **wanted)).results()
    drawn = result.text.removesuffix("The CAT, sat!")
    assert drawn.endswith(" ")
    assert drawn != result.text
    if num_top:
        assert result.logprobs.text_offset[-3:] == [len(drawn), len(drawn) + 4, len(drawn) + 9]
        assert result.logprobs.tokens[-3:] == ["the ", "cat ", "sat"]
        assert "".join(result.logprobs.tokens[:-3]) == drawn
        assert result.logprobs.token_logprobs[-1] is None


def test_token_ids_of_a_suffix_are_in_reading_order(service):
    ids = CHARACTERS.encode("hello")
    by_ids, by_text = (begun(service, from_the_end(one, logprobs=1)).results() for one in (ids, "hello"))
    assert by_ids == by_text
    wanted = from_the_end([*ids, CHARACTERS.special.end], logprobs=1, echo=True, max_tokens=0)
    (result,) = begun(service, wanted).results()
    assert result.text == "hello"
    assert (result.logprobs.tokens, result.logprobs.text_offset) == ([*"hello", "<end>"], [0, 1, 2, 3, 4, 5])
    assert [score is None for score in result.logprobs.token_logprobs] == [False] * 5 + [True]


TOO_LONG = "must be at most 1000 tokens, got 1001"


@pytest.mark.parametrize(
    ("wanted", "param", "message"),
    [
        (request([1, VOCABULARY]), "prompt", f"prompt must have token ids below {VOCABULARY}, got {VOCABULARY}"),
        (request(logit_bias={str(VOCABULARY): 1.0}), "logit_bias", "logit_bias must have token ids below"),
        (request("a" * 1001), "prompt", f"prompt {TOO_LONG}"),
        (request([1] * 1001), "prompt", f"prompt {TOO_LONG}"),
        (request("a" * 800, echo=True, n=4), "echo", "at most 3000 tokens .* got 3200"),
        (request("a" * 800, echo=True, n=3, logprobs=1), "logprobs", "at most 2000 tokens .* got 2436"),
        (request("a", logprobs=0, max_tokens=2001), "logprobs", "at most 2000 tokens .* got 2001"),
        (request("abc", model=BACKWARD), "prompt", "prompt must be empty or absent: .* is a backward model"),
        (request("", "", model=BACKWARD), "prompt", "which takes suffix"),
        (request([1], model=BACKWARD, suffix="a"), "prompt", "prompt must be empty or absent"),
        (request("abc", suffix="d"), "suffix", "suffix must be empty or absent: 'characters' is a forward model"),
        (request("", suffix=[5]), "suffix", "which takes prompt"),
        (from_the_end([VOCABULARY]), "suffix", f"suffix must have token ids below {VOCABULARY}, got {VOCABULARY}"),
        (from_the_end("a" * 1001), "suffix", f"suffix {TOO_LONG}"),
        (from_the_end("a" * 800, echo=True, n=4), "echo", r"of every suffix × n\), got 3200"),
        (from_the_end("a" * 800, echo=True, n=3, logprobs=1), "logprobs", "every suffix with echo.* got 2436"),
    ],
)
def test_limits_and_direction_of_the_model_are_checked_before_any_call(service, wanted, param, message):
    """`echo`, `n` and `logprobs` multiply a small request. The message names the field that was sent."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        begun(service, wanted)
    assert caught.value.param == param
    assert service.calls() == []


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_backward_model_embeds_a_text_from_its_end(service, pooling):
    forwards = service.engine.start_embedding(embedding("abc", "", pooling=pooling), RequestContext()).vectors()
    job = service.engine.start_embedding(embedding("cba", "", model=BACKWARD, pooling=pooling), RequestContext())
    np.testing.assert_array_equal(job.vectors(), forwards)


def test_cached_tokens_are_reported_and_private_to_a_tenant(start_service):
    service = start_service(prefix_cache_bytes=10**6)

    def cached(*prompts, tenant="anna", **fields):
        generation = service.start(*prompts, **fields, context=RequestContext(tenant=tenant))
        results = generation.results()
        generation.request.close()
        assert results == service_without.results(*prompts, **fields)
        return generation.request.num_cached_tokens

    service_without = start_service()
    assert cached("abcdef", n=3) == 0
    assert cached("abcdef", "abcdefgh", "xyz", n=3) == 10
    assert cached("abcdef", tenant="bert") == 0
    assert cached("abcdef", tenant="bert", echo=True, logprobs=1) == 0
    assert cached("abcdef", tenant="bert", echo=True) == 5
    assert cached("abcdef", tenant="bert", max_tokens=0, echo=True) == 0


def test_a_call_with_another_probe_hash_makes_the_fingerprint_mixed(start_service):
    service = start_service(prefix_cache_bytes=10**6)
    honest = service.backend.call

    def stand_in(call, done):
        honest(call, lambda outcome, _: done(outcome, "another" if call.signature == "decode" else None))

    service.backend.call = stand_in
    generation = service.start("abc", n=2)
    assert generation.request.fingerprint == "fp"
    generation.results()
    assert generation.request.fingerprint == "fp_mixed"
    generation.request.close()
    # The state after the prompt, computed before that, and neither choice's.
    assert len(service.scheduler.prefix_cache) == 1


@pytest.mark.parametrize("logprobs", [None, 1])
def test_an_echo_is_streamed_before_the_first_token(start_service, logprobs):
    backend = FakeBackend(held=True)
    service = start_service(backend)
    generation = service.start(echo=True, stream=True, logprobs=logprobs)
    if logprobs is not None:
        backend.release()
    deltas = generation.client_deltas()
    assert next(deltas).text == "abc"
    backend.release(1000)
    assert "".join(delta.text for delta in deltas)


def test_results_that_come_after_a_stop_string_are_ignored(service):
    """The scheduler may have delivered some before it gets the cancellation."""
    fields = {"n": 2, "max_tokens": 30, "stop": [service.results(max_tokens=30)[0].text[3:5]]}
    generation, texts = service.start(stream=True, **fields), ["", ""]
    for delta in generation.client_deltas():
        texts[delta.index] += delta.text
        if delta.finish_reason:
            generation.request.queue.put(Result((0, delta.index), sampled_ids=[5]))
    assert texts == [result.text for result in service.results(**fields)]


def test_a_stop_string_frees_the_slot_and_the_admission_at_once(service):
    """The sequence would go on to `max_tokens`, and the response is not closed yet."""
    words = {"model": "words", "max_tokens": 900}
    fields = {**words, "stop": [service.results(**words)[0].text[20:30]]}
    service.backend.calls.clear()
    generation = service.start(**fields)
    assert generation.results()[0].finish_reason == "stop"
    until(lambda: service.admission.num_sequences == 0)
    assert sum(call.is_decode for call in service.backend.calls) < 50
