"""Continuous batching on a fake backend: sequences do not affect each other, and every resource is freed."""

import itertools
import queue
import threading
import time

import numpy as np
import pytest

from service.errors import BackendUnavailable, InternalError, ShuttingDown
from service.scheduling.queues import BatchLimits
from service.scheduling.sampling_inputs import SamplingParams, uniforms
from service.scheduling.sequence import ModelVersion
from tests.fakes import END, STATE_SIZE, FakeBackend, FakeObserver, fake_step
from tests.unit.service.scheduling.sequences import PENALTY, SHAPES, Text, alone
from tests.waiting import until


def test_a_sequence_is_that_of_prefill_and_sampling_step_by_step():
    token_ids, reason = alone(prompt=(5, 6, 7), max_tokens=12, seed=3)
    state, last, expected = np.zeros(STATE_SIZE, np.float32), 7, []
    for token_id in (5, 6):
        state = fake_step(token_id, state)
    for uniform in uniforms(3, 0, 0, 12):
        state = fake_step(last, state)
        last = int(state.sum() + uniform * 1000) % 50
        expected.append(last)
    assert END not in expected, "choose another seed"
    assert (token_ids, reason) == (expected, "length")


def test_joining_a_running_batch_changes_no_sequence(start):
    scheduler = start(max_running=24, max_queued=100)
    prompts = [tuple(range(1, 2 + i % 37)) for i in range(70)]
    wanted = [{"prompt": p, "max_tokens": 1 + (i * 7) % 45, "seed": i, "choice": i % 3} for i, p in enumerate(prompts)]
    texts = [scheduler.submit_one(**one) for one in wanted]
    assert [text.finish() for text in texts] == [alone(**one) for one in wanted]
    until(lambda: scheduler.num_sequences == 0)


@pytest.mark.parametrize("end", ["finished", "cancelled"])
def test_prompts_that_follow_ended_sequences_share_a_prefill_call(start, monkeypatch, end):
    """Eight have ended, so the first new prompt waits for seven others. A stop string cancels a sequence."""
    monkeypatch.setattr("service.scheduling.queues.MAX_WAIT_S", 60.0)
    backend = FakeBackend()
    scheduler = start(backend)
    max_tokens = 20 if end == "finished" else 10**6
    old = [Text(prompt=(3, 4, 5), seed=seed, max_tokens=max_tokens, end_id=None) for seed in range(8)]
    scheduler.submit([[text.sequence] for text in old], SHAPES)
    for text in old:
        text.finish() if end == "finished" else text.events.get(timeout=10)
    scheduler.cancel([text.sequence for text in old])
    until(lambda: sum(running for running, _ in scheduler.loads.values()) == 0)
    num_calls = len(backend.calls)
    new = [Text(prompt=(3, 4, 5), seed=seed) for seed in range(8)]
    scheduler.submit([[new[0].sequence]], SHAPES)
    until(lambda: [running for running, _ in scheduler.loads.values()] == [1])
    scheduler.submit([[text.sequence] for text in new[1:]], SHAPES)
    for text in new:
        text.finish()
    prefills = [call for call in backend.calls[num_calls:] if call.signature == "prefill"]
    assert [len(call.sequences) for call in prefills] == [8]


def test_a_wait_for_an_expected_prompt_ends_also_while_events_are_delivered(start, monkeypatch):
    monkeypatch.setattr("service.scheduling.queues.MAX_WAIT_S", 0.5)
    scheduler, is_slow = start(), threading.Event()
    deliver = scheduler._deliver

    def deliver_slowly():
        deliver()
        if is_slow.is_set():
            time.sleep(0.6)

    monkeypatch.setattr(scheduler, "_deliver", deliver_slowly)
    texts = [Text(prompt=(3, 4, 5), max_tokens=1) for _ in range(3)]
    scheduler.submit([[text.sequence] for text in texts[:2]], SHAPES)
    for text in texts[:2]:
        text.finish()
    until(lambda: sum(running for running, _ in scheduler.loads.values()) == 0)
    is_slow.set()
    scheduler.submit([[texts[2].sequence]], SHAPES)
    assert texts[2].finish() == alone(prompt=(3, 4, 5), max_tokens=1)
    until(lambda: scheduler.loads == {})


def test_the_eos_token_finishes_a_sequence_and_is_not_returned(start):
    scheduler = start()
    for seed in range(60):
        text = scheduler.submit_one(seed=seed, max_tokens=200)
        token_ids, reason = text.finish()
        assert END not in token_ids
        assert (reason == "stop") == (len(token_ids) < 200)


@pytest.mark.parametrize("where", ["queued", "running"])
def test_a_cancelled_sequence_is_removed(start, where):
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=1, max_queued=1, max_calls=1)
    running, waiting = Text(max_tokens=10_000), Text(max_tokens=10_000)
    scheduler.submit([[running.sequence]], SHAPES)
    until(lambda: len(backend.calls) == 1)
    scheduler.submit([[waiting.sequence]], SHAPES)
    scheduler.cancel([(waiting if where == "queued" else running).sequence])
    if where == "running":
        backend.release()
    until(lambda: scheduler.num_sequences == 1)
    assert (running if where == "running" else waiting).events.empty()
    backend.release(10_000)


@pytest.mark.parametrize("first", [0, 1], ids=["all", "forks"])
def test_cancelling_during_prefill_removes_the_choices_that_wait_for_it(start, first):
    backend = FakeBackend(held=True)
    scheduler = start(backend)
    texts = [Text(prompt=(1, 2, 3), choice=i) for i in range(4)]
    scheduler.submit([[text.sequence for text in texts]], SHAPES)
    until(lambda: len(backend.calls) == 1)
    scheduler.cancel([text.sequence for text in texts[first:]])
    backend.release()
    until(lambda: scheduler.num_sequences == first)
    backend.release(10_000)


def test_a_retried_call_neither_loses_nor_repeats_tokens(start):
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone"), BackendUnavailable("still gone")]
    scheduler = start(backend)
    texts = [scheduler.submit_one(prompt=(1, 2, 3), seed=i) for i in range(5)]
    assert [text.finish() for text in texts] == [alone(prompt=(1, 2, 3), seed=i) for i in range(5)]


def test_a_permanent_error_is_not_retried(start):
    backend = FakeBackend()
    backend.failures = [InternalError("refused")]
    scheduler = start(backend)
    text = scheduler.submit_one()
    assert str(text.finish()[1]) == "refused"
    assert len(backend.calls) == 1


def test_stopping_fails_every_sequence_with_the_given_error(start):
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=2, max_queued=10, max_calls=1)
    texts = [scheduler.submit_one(prompt=(1, 2, 3), seed=i) for i in range(5)]
    until(lambda: len(backend.calls) == 1)
    scheduler.stop(ShuttingDown("good night"))
    assert {str(text.finish(timeout=2)[1]) for text in texts} == {"good night"}
    with pytest.raises(ShuttingDown):
        scheduler.submit_one()
    backend.release(10)


class SteppedBackend(FakeBackend):
    """A backend that answers its oldest call on `step`, so that the timing of threads does not matter."""

    def __init__(self):
        super().__init__()
        self._waiting = queue.SimpleQueue()

    def call(self, call, done):
        with self._lock:
            self._in_flight += 1
        self.calls.append(call)
        self._waiting.put((call, call.inputs(), done))

    def step(self):
        """Answer a call, and wait until the scheduler has sent the next one."""
        call, inputs, done = self._waiting.get(timeout=10)
        num_calls = len(self.calls)
        self._answer(call, inputs, None, done)
        until(lambda: len(self.calls) > num_calls, interval=0.0005)


def test_a_busy_model_leaves_calls_to_another(start):
    backend = SteppedBackend()
    scheduler = start(backend, max_running=64, max_calls=2)
    other = ModelVersion("other", 1)
    for i in range(40):
        scheduler.submit_one(max_tokens=10**6, seed=i, end_id=None)
    for _ in range(20):
        backend.step()
    late = scheduler.submit_one(model=other, max_tokens=40)
    until(lambda: any(scheduler.loads.get(other, ())))
    begun = len(backend.calls)
    for _ in range(40):
        backend.step()
    assert late.finish() == alone(max_tokens=40)
    mine = [i for i, call in enumerate(backend.calls[begun:]) if call.version == other]
    assert max(np.diff([0, *mine])) <= 4


def test_a_retry_is_not_missed_when_messages_arrive_during_the_backoff(start):
    """Messages wake the scheduler at any time, also just before the end of the pause."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone")] * 3
    scheduler = start(backend)
    text = scheduler.submit_one(max_tokens=5)
    ended = threading.Event()

    def disturb():
        while not ended.wait(0.001):
            scheduler.cancel([])

    disturber = threading.Thread(target=disturb)
    disturber.start()
    try:
        assert text.finish() == alone(max_tokens=5)
    finally:
        ended.set()
        disturber.join()


def test_an_outage_fails_all_waiting_sequences_together(start):
    """Sequences that never had a call do not wait for one grace time after another, nor do choices without prefill."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone for good") for _ in range(10_000)]
    scheduler = start(backend, max_running=8, max_queued=200, backend_grace_s=0.4)
    texts = [Text(prompt=(1, 2), choice=i) for i in range(60)]
    for i in range(0, 60, 3):
        scheduler.submit([[text.sequence for text in texts[i : i + 3]]], SHAPES)
    assert {str(text.finish(timeout=5)[1]) for text in texts} == {"gone for good"}
    assert len(backend.calls) < 10
    until(lambda: scheduler.num_sequences == 0)


def test_a_request_that_races_with_stopping_gets_an_error(start):
    for _ in range(30):
        scheduler = start()
        texts, refused = [Text(max_tokens=10**6, seed=i, end_id=None) for i in range(40)], []

        def submit(scheduler=scheduler, texts=texts, refused=refused):
            for text in texts:
                try:
                    scheduler.submit([[text.sequence]], SHAPES)
                except ShuttingDown:
                    refused.append(text)

        thread = threading.Thread(target=submit)
        thread.start()
        scheduler.stop(ShuttingDown("good night"))
        thread.join()
        for text in texts:
            if text not in refused:
                assert str(text.finish(timeout=2)[1]) == "good night"
        assert scheduler.num_sequences == 0


def test_an_invalid_reply_fails_its_sequences_and_not_the_scheduler(start):
    backend = FakeBackend()
    scheduler = start(backend)
    honest = backend.call
    backend.call = lambda call, done: done({"state": np.zeros((1, 1), np.float32)}, None)
    assert isinstance(scheduler.submit_one().finish()[1], InternalError)
    backend.call = honest
    assert scheduler.submit_one().finish() == alone()


def test_an_observer_gets_starts_failures_and_calls_in_order(start):
    backend, observer = FakeBackend(), FakeObserver()
    backend.failures = [BackendUnavailable("gone")]
    scheduler = start(backend, observer)
    text, other = (Text(prompt=(3, 4), max_tokens=4, choice=choice) for choice in range(2))
    scheduler.submit([[text.sequence, other.sequence]], SHAPES)
    text.finish()
    other.finish()
    kinds = [event[0] for event in observer.events]
    assert kinds == ["started", "failed", "answered", "answered"]
    assert observer.events[0][1] is text.sequence
    assert observer.events[1][3] is True
    assert [event[1].signature for event in observer.events[2:]] == ["prefill", "decode"]


def test_loads_count_the_running_and_waiting_sequences(start):
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=2, max_queued=10)
    texts = [scheduler.submit_one(seed=i, max_tokens=3) for i in range(5)]
    until(lambda: list(scheduler.loads.values()) == [(2, 3)])
    backend.release(1000)
    for text in texts:
        text.finish()
    until(lambda: not any(running for running, _ in scheduler.loads.values()))


CACHE = {"prefix_cache_bytes": 10**6}


def reads(backend):
    """Return how many tokens each prefill call has read of each sequence, in order."""
    lengths = zip(backend.calls, backend.lengths, strict=True)
    prefills = (of_call[: len(call.sequences)].tolist() for call, of_call in lengths if not call.is_decode)
    return list(itertools.chain.from_iterable(prefills))


class ReadingBackend(FakeBackend):
    """Records the lengths of the slices of each call."""

    def __init__(self):
        super().__init__()
        self.lengths = []

    def call(self, call, done):
        self.lengths.append(call.inputs().get("lengths"))
        super().call(call, done)


STEM = tuple(3 + i % 40 for i in range(300))


@pytest.mark.parametrize(
    "prompts",
    [
        [(STEM[:60], 59), (STEM[:60], 0), ((*STEM[:60], 9, 8), 2)],
        # States are cached during prefill; the second prompt continues from the last one within the common prefix.
        [(STEM, 299), ((*STEM[:270], 7, 8, 9), 272 - 256)],
    ],
    ids=["whole", "prefix"],
)
def test_a_cached_prompt_is_not_prefilled_again(start, prompts):
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    for tokens, to_read in prompts:
        before = sum(reads(backend))
        text = scheduler.submit_one(prompt=tokens, cache_namespace="mine")
        assert text.finish() == alone(prompt=tokens)
        assert sum(reads(backend)) - before == to_read
        assert text.sequence.num_cached_tokens == len(tokens) - 1 - to_read


@pytest.mark.parametrize(("cache_namespace", "limits"), [("another", CACHE), (None, CACHE), ("mine", {})])
def test_a_prompt_of_another_namespace_is_prefilled_whole(start, cache_namespace, limits):
    backend = ReadingBackend()
    scheduler = start(backend, **limits)
    for name in ("mine", cache_namespace):
        text = scheduler.submit_one(prompt=(3, 4, 5, 6), cache_namespace=name)
        assert text.finish() == alone(prompt=(3, 4, 5, 6))
        assert text.sequence.num_cached_tokens == 0
    assert reads(backend) == [3, 3]


def test_a_completion_sent_back_as_a_prompt_is_a_cache_hit(start):
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    first = scheduler.submit_one(prompt=(3, 4, 5), max_tokens=10, cache_namespace="mine")
    written, reason = first.finish()
    assert reason == "length", "choose another seed"
    longer = (3, 4, 5, *written, 7, 8)
    second = scheduler.submit_one(prompt=longer, cache_namespace="mine")
    assert second.finish() == alone(prompt=longer)
    # The model has not read the last token that it sampled.
    assert reads(backend) == [2, 2]
    assert second.sequence.num_cached_tokens == len(longer) - 3


def test_choices_of_a_cached_prompt_skip_prefill_and_are_cached(start):
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    for _ in range(2):
        texts = [Text(prompt=(3, 4, 5), choice=i, max_tokens=10, cache_namespace="mine") for i in range(4)]
        scheduler.submit([[text.sequence for text in texts]], SHAPES)
        written = [text.finish() for text in texts]
        assert written == [alone(prompt=(3, 4, 5), choice=i, max_tokens=10) for i in range(4)]
    assert {reason for _, reason in written} == {"length"}, "choose another seed"
    assert reads(backend) == [2]
    for token_ids, _ in written:
        text = scheduler.submit_one(prompt=(3, 4, 5, *token_ids, 6), cache_namespace="mine")
        text.finish()
    assert reads(backend) == [2, 1, 1, 1, 1]


def test_a_scored_prompt_is_prefilled_whole_despite_a_cache_hit(start):
    """Every token needs its logprob. A later prompt without logprobs is a hit again."""
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    for prefill_signature in ("prefill", "score", "prefill"):
        text = scheduler.submit_one(prompt=(3, 4, 5, 6), prefill_signature=prefill_signature, cache_namespace="mine")
        while not text.events.get(timeout=10).finish_reason:
            pass
    assert reads(backend) == [3, 3]


def test_a_nan_state_is_not_cached(start):
    backend = FakeBackend()
    honest = backend.call

    def spoil_once(call, done):
        def answer(outcome, probe_hash):
            outcome["state"][0, 0] = np.nan
            done(outcome, probe_hash)

        backend.call = honest
        honest(call, answer)

    backend.call = spoil_once
    scheduler = start(backend, **CACHE)
    first, second = (scheduler.submit_one(prompt=(3, 4, 5), cache_namespace="mine").finish() for _ in range(2))
    assert isinstance(first[1], InternalError)
    assert second == alone(prompt=(3, 4, 5))


def test_the_prefix_cache_changes_no_sequence(start):
    scheduler = start(prefix_cache_bytes=20_000, max_running=16, max_queued=200)
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 40, 300).tolist()
    wanted = []
    for i in range(90):
        prompt = stem[: int(rng.integers(0, 300))] + rng.integers(3, 40, int(rng.integers(1, 4))).tolist()
        wanted.append({"prompt": tuple(prompt), "max_tokens": 1 + i % 30, "seed": i % 7, "choice": i % 2})
        wanted[-1]["sampling"] = PENALTY if i % 5 == 0 else SamplingParams()
    texts = [scheduler.submit_one(**one, cache_namespace="mine") for one in wanted]
    assert [text.finish() for text in texts] == [alone(**one) for one in wanted]
    assert sum(text.sequence.num_cached_tokens > 0 for text in texts) > 20
    assert scheduler.prefix_cache.num_evicted > 0


def test_new_batch_limits_apply_at_once_to_a_busy_model(start):
    """The determinism probe may change them. More sequences of an earlier request do not bring back its limits."""
    backend = FakeBackend()
    scheduler = start(backend)
    first, *later = Text(max_tokens=10**6, end_id=None), Text(seed=1, max_tokens=5), Text(seed=2, max_tokens=5)
    number = scheduler.submit([[first.sequence]], SHAPES)
    until(lambda: len(backend.calls) > 3)
    for text, *limits in ((later[0], BatchLimits((16,), 4, 4)), (later[1], SHAPES, number)):
        scheduler.submit([[text.sequence]], *limits)
        assert text.finish() == alone(seed=text.sequence.seed, max_tokens=5)
        seen = len(backend.calls)
        until(lambda seen=seen: len(backend.calls) > seen + 3)
        assert {(call.batch_size, call.size <= 4) for call in backend.calls[seen + 1 :]} == {(16, True)}
