"""Continuous batching on a fake backend: nobody notices anybody, and nothing is left behind."""

import itertools
import queue
import threading

import numpy as np
import pytest

from service.errors import BackendUnavailable, InternalError, InvalidRequest, Overloaded, ShuttingDown
from service.params import ModelVersion, SamplingParams
from service.scheduling.policy import BatchLimits
from service.scheduling.sequence import DecodeResult
from tests.fakes import END, STATE_SIZE, FakeBackend, FakeObserver, fake_logprob, fake_step
from tests.unit.service.scheduling.sequences import PENALTY, SHAPES, Text, alone
from tests.waiting import until


def test_a_text_is_what_reading_and_drawing_step_by_step_gives():
    """The tokens follow from the prompt's state and the uniforms, one after another."""
    from service.scheduling.random_numbers import uniforms

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
    """Sequences of many lengths get the same tokens in company as they get alone."""
    scheduler = start(max_running=24, max_queued=100)
    wanted = [
        {"prompt": tuple(range(1, 2 + i % 37)), "max_tokens": 1 + (i * 7) % 45, "seed": i, "choice": i % 3}
        for i in range(70)
    ]
    texts = []
    for one in wanted:
        texts.append(Text(**one))
        scheduler.submit([[texts[-1].sequence]], SHAPES)
    assert [text.finish() for text in texts] == [alone(**one) for one in wanted]
    until(lambda: scheduler.num_sequences == 0)


def test_choices_of_one_prompt_differ_from_each_other_and_not_from_being_alone(start):
    """Each choice has random numbers of its own, and reading the prompt once changes none of them."""
    backend = FakeBackend()
    scheduler = start(backend)
    texts = [Text(prompt=(3, 4, 5, 6, 7, 8), choice=i) for i in range(5)]
    scheduler.submit([[text.sequence for text in texts]], SHAPES)
    outcomes = [text.finish() for text in texts]
    assert outcomes == [alone(prompt=(3, 4, 5, 6, 7, 8), choice=i) for i in range(5)]
    assert len({tuple(token_ids) for token_ids, _ in outcomes}) == 5
    assert sum(len(call.sequences) for call in backend.calls if call.signature == "prefill") == 1


def test_the_end_mark_ends_a_text_and_is_not_part_of_it(start):
    """A sequence that draws the end mark stops there, with reason `stop`."""
    scheduler = start()
    for seed in range(60):
        text = Text(seed=seed, max_tokens=200)
        scheduler.submit([[text.sequence]], SHAPES)
        token_ids, reason = text.finish()
        assert END not in token_ids
        assert (reason == "stop") == (len(token_ids) < 200)


def test_only_shapes_of_the_card_are_sent(start):
    """Row counts, steps and lengths of every call are among those that were probed."""
    backend = FakeBackend()
    scheduler = start(backend, max_running=40)
    texts = [Text(prompt=tuple(range(1, 2 + i)), max_tokens=1 + i, seed=i) for i in range(40)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    for text in texts:
        text.finish()
    for call in backend.calls:
        assert call.batch_size in SHAPES.batch_sizes
        assert 1 <= call.size <= (SHAPES.max_steps if call.signature == "decode" else SHAPES.max_length)
        assert len(call.sequences) <= call.batch_size


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room(start):
    """One sequence more than may run and wait is refused, with the bound; later ones are taken."""
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=2, max_queued=1)
    texts = [Text(max_tokens=1, seed=i) for i in range(3)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    with pytest.raises(Overloaded, match="3 of 3 sequences"):
        scheduler.submit([[Text().sequence]], SHAPES)
    backend.release(100)
    for text in texts:
        text.finish()
    until(lambda: scheduler.num_sequences == 0)
    again = Text(max_tokens=1)
    scheduler.submit([[again.sequence]], SHAPES)
    again.finish()


@pytest.mark.parametrize("where", ["queued", "running"])
def test_a_cancelled_sequence_frees_its_place(start, where):
    """A client that leaves makes room at once if it waits, and with the current call if it runs."""
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


def test_a_cancelled_prompt_takes_its_choices_along(start):
    """Choices that wait for their prompt to be read are released with it."""
    backend = FakeBackend(held=True)
    scheduler = start(backend)
    texts = [Text(prompt=(1, 2, 3), choice=i) for i in range(4)]
    scheduler.submit([[text.sequence for text in texts]], SHAPES)
    until(lambda: len(backend.calls) == 1)
    scheduler.cancel([text.sequence for text in texts])
    backend.release()
    until(lambda: scheduler.num_sequences == 0)


def test_a_failed_call_is_repeated_and_nothing_is_lost_or_doubled(start):
    """Two failures in a row change no token of anybody."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone"), BackendUnavailable("still gone")]
    scheduler = start(backend)
    texts = [Text(prompt=(1, 2, 3), seed=i) for i in range(5)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    assert [text.finish() for text in texts] == [alone(prompt=(1, 2, 3), seed=i) for i in range(5)]


def test_a_backend_that_stays_away_ends_the_text_with_its_error(start):
    """After the grace time the error reaches the client, choices that never started included."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone for good") for _ in range(1000)]
    scheduler = start(backend, backend_grace_s=0.3)
    texts = [Text(prompt=(1, 2), choice=i) for i in range(3)]
    scheduler.submit([[text.sequence for text in texts]], SHAPES)
    assert [str(text.finish()[1]) for text in texts] == ["gone for good"] * 3
    until(lambda: scheduler.num_sequences == 0)


def test_an_error_that_repeating_cannot_mend_is_told_at_once(start):
    """A refused call is not repeated."""
    backend = FakeBackend()
    backend.failures = [InternalError("refused")]
    scheduler = start(backend)
    text = Text()
    scheduler.submit([[text.sequence]], SHAPES)
    assert str(text.finish()[1]) == "refused"
    assert len(backend.calls) == 1


def test_stopping_ends_every_sequence_with_the_error(start):
    """Running, reading and waiting sequences all hear of it, and new ones are refused."""
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=2, max_queued=10, max_calls=1)
    texts = [Text(prompt=(1, 2, 3), seed=i) for i in range(5)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    until(lambda: len(backend.calls) == 1)
    scheduler.stop(ShuttingDown("good night"))
    assert {str(text.finish(timeout=2)[1]) for text in texts} == {"good night"}
    with pytest.raises(ShuttingDown):
        scheduler.submit([[Text().sequence]], SHAPES)
    backend.release(10)


def test_a_prompt_is_read_at_once_while_texts_wait_for_each_other(start):
    """A call that is free because drawing is not worth it yet does not stay idle while a prompt is there."""
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_calls=2)
    running, joining = Text(max_tokens=10**6, end_id=None), Text(max_tokens=10**6, seed=1, end_id=None)
    scheduler.submit([[running.sequence]], SHAPES)
    until(lambda: len(backend.calls) == 1)
    scheduler.submit([[joining.sequence]], SHAPES)
    scheduler.submit([[Text(prompt=(1, 2, 3)).sequence]], SHAPES)
    until(lambda: len(backend.calls) == 2)
    assert [call.signature for call in backend.calls] == ["decode", "prefill"]
    backend.release(10**6)


def test_two_models_share_the_calls(start):
    """A model with much to do does not keep another one waiting."""
    scheduler = start(max_calls=1)
    other = ModelVersion("other", 4)
    long = [Text(max_tokens=3000, seed=i) for i in range(8)]
    for text in long:
        scheduler.submit([[text.sequence]], SHAPES)
    short = Text(model=other, max_tokens=4)
    scheduler.submit([[short.sequence]], SHAPES)
    assert short.finish() == alone(max_tokens=4)
    scheduler.cancel([text.sequence for text in long])


class SteppedBackend(FakeBackend):
    """A backend that answers its oldest call when it is told, so that no thread's pace decides what comes next."""

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


def test_a_busy_model_leaves_calls_for_another(start):
    """However many texts one model has, another one's text is drawn in turn with them."""
    backend = SteppedBackend()
    scheduler = start(backend, max_running=64, max_calls=2)
    other = ModelVersion("other", 1)
    for i in range(40):
        scheduler.submit([[Text(max_tokens=10**6, seed=i, end_id=None).sequence]], SHAPES)
    for _ in range(20):
        backend.step()
    late = Text(model=other, max_tokens=40)
    scheduler.submit([[late.sequence]], SHAPES)
    until(lambda: any(load.model == other and load.waiting + load.running for load in scheduler.loads))
    begun = len(backend.calls)
    for _ in range(40):
        backend.step()
    assert late.finish() == alone(max_tokens=40)
    mine = [i for i, call in enumerate(backend.calls[begun:]) if call.model == other]
    assert max(np.diff([0, *mine])) <= 4


def test_a_text_is_tried_again_though_messages_come_during_the_pause(start):
    """The end of a pause is not missed when something else wakes the scheduler just before it."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone")] * 3
    scheduler = start(backend)
    text = Text(max_tokens=5)
    scheduler.submit([[text.sequence]], SHAPES)
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


def test_an_outage_ends_all_who_wait_for_it_together(start):
    """Texts that never got a call of their own do not wait for one grace time after another."""
    backend = FakeBackend()
    backend.failures = [BackendUnavailable("gone for good") for _ in range(10_000)]
    scheduler = start(backend, max_running=8, max_queued=200, backend_grace_s=0.4)
    texts = [Text(seed=i) for i in range(60)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    assert {str(text.finish(timeout=5)[1]) for text in texts} == {"gone for good"}
    assert len(backend.calls) < 10
    until(lambda: scheduler.num_sequences == 0)


def test_more_choices_than_can_ever_be_accepted_are_an_error_of_the_request(start):
    """Coming back later would not help, so the answer is not 429."""
    scheduler = start(max_running=2, max_queued=2)
    with pytest.raises(InvalidRequest, match=r"at most 4 sequences at this server .*, got 5"):
        scheduler.submit([[Text(choice=i).sequence for i in range(5)]], SHAPES)


def test_a_request_that_races_with_the_end_hears_of_it(start):
    """Whatever is submitted while the scheduler stops is refused or ended, never forgotten."""
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


def test_a_row_that_is_not_a_number_ends_its_own_text_alone(start):
    """Neighbours in the same call go on."""
    backend = FakeBackend()
    honest = backend.call

    def spoil(call, done):
        def spoilt(outcome, probe_hash):
            for row, sequence in enumerate(call.sequences):
                if sequence.seed == 3:
                    outcome["state"][row, 0] = np.nan
            done(outcome, probe_hash)

        honest(call, spoilt)

    backend.call = spoil
    scheduler = start(backend)
    texts = [Text(seed=i) for i in range(6)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    outcomes = [text.finish() for text in texts]
    assert isinstance(outcomes[3][1], InternalError)
    del outcomes[3]
    assert outcomes == [alone(seed=i) for i in range(6) if i != 3]


def test_a_fault_in_the_scheduler_ends_the_sequences_and_not_the_service(start):
    """An answer that cannot be applied is an internal error for those it concerns; the next request is served."""
    backend = FakeBackend()
    scheduler = start(backend)
    honest = backend.call
    backend.call = lambda call, done: done({"state": np.zeros((1, 1), np.float32)}, None)
    text = Text()
    scheduler.submit([[text.sequence]], SHAPES)
    assert isinstance(text.finish()[1], InternalError)
    backend.call = honest
    again = Text()
    scheduler.submit([[again.sequence]], SHAPES)
    assert again.finish() == alone()


def test_running_texts_go_on_while_a_long_prompt_is_read(start):
    """With a single call in flight, no two calls that read stand together as long as there is something to draw."""
    backend = FakeBackend()
    scheduler = start(backend, max_calls=1)
    running = [Text(max_tokens=200, seed=seed) for seed in range(30)]
    scheduler.submit([[running[0].sequence]], SHAPES)
    long = Text(prompt=tuple(1 + i % 40 for i in range(800)), max_tokens=1)
    scheduler.submit([[long.sequence]], SHAPES)
    for text in running[1:]:
        scheduler.submit([[text.sequence]], SHAPES)
    for text in (*running, long):
        text.finish()
    signatures = [call.signature for call in backend.calls]
    last_draw = len(signatures) - signatures[::-1].index("decode", signatures[::-1].index("prefill"))
    pairs = list(itertools.pairwise(signatures[:last_draw]))
    assert ("prefill", "prefill") not in pairs
    assert pairs.count(("decode", "prefill")) > 3


def test_texts_with_and_without_penalties_take_turns_and_keep_their_tokens(start):
    """A call runs one signature; neither kind changes or starves the other, however many there are of each."""
    backend = FakeBackend()
    scheduler = start(backend, max_running=64, max_calls=1)
    wanted = [{"seed": i, "max_tokens": 60, "prompt": (3, 4, 5)} for i in range(40)]
    texts = [Text(**one, sampling=PENALTY if i % 8 == 0 else SamplingParams()) for i, one in enumerate(wanted)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    outcomes = [text.finish() for text in texts]
    expected = [alone(**one, sampling=PENALTY if i % 8 == 0 else SamplingParams()) for i, one in enumerate(wanted)]
    assert outcomes == expected
    for call in backend.calls:
        assert not call.is_decode or {sequence.decode_signature for sequence in call.sequences} == {call.signature}
    drawing = [call.signature for call in backend.calls if call.is_decode]
    assert drawing.index("decode_full") < 6
    assert len(list(itertools.groupby(drawing))) > 6


def test_a_prompt_is_scored_in_slices_as_it_is_read(start):
    """Scores come piece by piece and are those of every token but the first; the last piece says so."""
    scheduler = start()
    prompt = tuple(3 + i % 40 for i in range(60))
    text = Text(prompt=prompt, max_tokens=0, prefill_signature="score")
    scheduler.submit([[text.sequence]], SHAPES)
    events = []
    while not events or not events[-1].last:
        events.append(text.events.get(timeout=10))
    assert len(events) == 4
    state, expected = np.zeros(STATE_SIZE, np.float32), []
    for last, token_id in itertools.pairwise(prompt):
        state = fake_step(last, state)
        expected.append(fake_logprob(token_id, state))
    np.testing.assert_array_equal(np.concatenate([event.scores.logprobs for event in events]), expected)
    until(lambda: scheduler.num_sequences == 0)


def test_an_observer_is_told_of_rows_calls_and_failures(start):
    """Each start with its wait, each answered call and each failure reach it, in order."""
    backend, observer = FakeBackend(), FakeObserver()
    backend.failures = [BackendUnavailable("gone")]
    scheduler = start(backend, observer)
    text = Text(prompt=(3, 4), max_tokens=4)
    scheduler.submit([[text.sequence]], SHAPES)
    text.finish()
    kinds = [event[0] for event in observer.events]
    assert kinds == ["started", "failed", "answered", "answered"]
    assert observer.events[0][1] is text.sequence
    assert observer.events[1][3] is True
    assert [event[1].signature for event in observer.events[2:]] == ["prefill", "decode"]


def test_loads_say_where_the_texts_are(start):
    """Running and waiting texts of each model can be read at any time, and are none in the end."""
    backend = FakeBackend(held=True)
    scheduler = start(backend, max_running=2, max_queued=10)
    texts = [Text(seed=i, max_tokens=3) for i in range(5)]
    for text in texts:
        scheduler.submit([[text.sequence]], SHAPES)
    until(lambda: [(load.running, load.waiting) for load in scheduler.loads] == [(2, 3)])
    assert scheduler.num_tokens == 15
    backend.release(1000)
    for text in texts:
        text.finish()
    until(lambda: scheduler.loads == () or scheduler.loads[0].running == 0)
    assert scheduler.num_tokens == 0


def test_chunks_carry_only_drawn_tokens():
    """An event never holds more tokens than were asked for."""
    text = Text(max_tokens=3)
    chunk = text.sequence.advance([5, 6, 7], np.zeros(STATE_SIZE, np.float32))
    assert chunk == DecodeResult(0, [5, 6, 7], "length")


CACHE = {"prefix_cache_bytes": 10**6}


def reads(backend):
    """Return how many tokens the calls that read have read for each of their texts, in order."""
    return [
        int(length)
        for call, lengths in zip(backend.calls, backend.lengths, strict=True)
        if not call.is_decode
        for length in lengths[: len(call.sequences)]
    ]


class ReadingBackend(FakeBackend):
    """Remembers how long the slices of each call were."""

    def __init__(self):
        super().__init__()
        self.lengths = []

    def call(self, call, done):
        self.lengths.append(call.inputs().get("lengths"))
        super().call(call, done)


def test_a_prompt_read_before_is_not_read_again(start):
    """The second time there is nothing to read, and the text is the same; a longer prompt reads on from there."""
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    prompt = tuple(3 + i % 40 for i in range(60))
    for tokens, to_read in ((prompt, 59), (prompt, 0), ((*prompt, 9, 8), 2)):
        before = sum(reads(backend))
        text = Text(prompt=tokens, cache_namespace="mine")
        scheduler.submit([[text.sequence]], SHAPES)
        assert text.finish() == alone(prompt=tokens)
        assert sum(reads(backend)) - before == to_read
        assert text.sequence.num_cached_tokens == len(tokens) - 1 - to_read


@pytest.mark.parametrize(("cache_namespace", "limits"), [("another", CACHE), (None, CACHE), ("mine", {})])
def test_a_prompt_that_may_not_be_recalled_is_read(start, cache_namespace, limits):
    """Another scope, none, or no memory for it: all of the prompt is read."""
    backend = ReadingBackend()
    scheduler = start(backend, **limits)
    for name in ("mine", cache_namespace):
        text = Text(prompt=(3, 4, 5, 6), cache_namespace=name)
        scheduler.submit([[text.sequence]], SHAPES)
        assert text.finish() == alone(prompt=(3, 4, 5, 6))
        assert text.sequence.num_cached_tokens == 0
    assert reads(backend) == [3, 3]


def test_a_text_that_is_sent_back_as_a_prompt_is_known(start):
    """What was written has been read by the model as it was drawn: only what is new is read."""
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    first = Text(prompt=(3, 4, 5), max_tokens=10, cache_namespace="mine")
    scheduler.submit([[first.sequence]], SHAPES)
    written, reason = first.finish()
    assert reason == "length", "choose another seed"
    longer = (3, 4, 5, *written, 7, 8)
    second = Text(prompt=longer, cache_namespace="mine")
    scheduler.submit([[second.sequence]], SHAPES)
    assert second.finish() == alone(prompt=longer)
    # The last token written was not read yet.
    assert reads(backend) == [2, 2]
    assert second.sequence.num_cached_tokens == len(longer) - 3


def test_prompts_that_part_midway_share_what_comes_before(start):
    """States are kept on the way through a prompt; another with the same beginning reads on from the last of them."""
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    stem = tuple(3 + i % 40 for i in range(300))
    for tokens, to_read in ((stem, 299), ((*stem[:270], 7, 8, 9), 272 - 256)):
        before = sum(reads(backend))
        text = Text(prompt=tokens, cache_namespace="mine")
        scheduler.submit([[text.sequence]], SHAPES)
        assert text.finish() == alone(prompt=tokens)
        assert sum(reads(backend)) - before == to_read


def test_choices_of_a_known_prompt_start_at_once_and_each_is_known_in_the_end(start):
    """Nothing is read for any of them, and each can be gone on with by itself."""
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
        text = Text(prompt=(3, 4, 5, *token_ids, 6), cache_namespace="mine")
        scheduler.submit([[text.sequence]], SHAPES)
        text.finish()
    assert reads(backend) == [2, 1, 1, 1, 1]


def test_a_prompt_whose_every_token_is_looked_at_is_read_whole(start):
    """Scores are of all tokens, so nothing is skipped; but what was read so is known to others."""
    backend = ReadingBackend()
    scheduler = start(backend, **CACHE)
    for prefill_signature in ("prefill", "score", "prefill"):
        text = Text(prompt=(3, 4, 5, 6), prefill_signature=prefill_signature, cache_namespace="mine")
        scheduler.submit([[text.sequence]], SHAPES)
        while not isinstance(event := text.events.get(timeout=10), DecodeResult) or not event.finish_reason:
            pass
    assert reads(backend) == [3, 3]


def test_a_state_that_is_not_a_number_is_not_kept(start):
    """What a text failed by is not handed to the next one."""
    backend = FakeBackend()
    honest, spoilt = backend.call, []

    def spoil(call, done):
        def answer(outcome, probe_hash):
            if not spoilt:
                spoilt.append(call)
                outcome["state"][0, 0] = np.nan
            done(outcome, probe_hash)

        honest(call, answer)

    backend.call = spoil
    scheduler = start(backend, **CACHE)
    outcomes = []
    for _ in range(2):
        text = Text(prompt=(3, 4, 5), cache_namespace="mine")
        scheduler.submit([[text.sequence]], SHAPES)
        outcomes.append(text.finish())
    assert isinstance(outcomes[0][1], InternalError)
    assert outcomes[1] == alone(prompt=(3, 4, 5))


def test_knowing_changes_no_text(start):
    """Prompts that begin alike, many at a time, with a cache too small for all: each text is as it is alone."""
    scheduler = start(prefix_cache_bytes=20_000, max_running=16, max_queued=200)
    rng = np.random.default_rng(0)
    stem = rng.integers(3, 40, 300).tolist()
    wanted = []
    for i in range(90):
        prompt = stem[: int(rng.integers(0, 300))] + rng.integers(3, 40, int(rng.integers(1, 4))).tolist()
        wanted.append({"prompt": tuple(prompt), "max_tokens": 1 + i % 30, "seed": i % 7, "choice": i % 2})
    texts = []
    for i, one in enumerate(wanted):
        texts.append(Text(**one, cache_namespace="mine", sampling=PENALTY if i % 5 == 0 else SamplingParams()))
        scheduler.submit([[texts[-1].sequence]], SHAPES)
    outcomes = [text.finish() for text in texts]
    assert outcomes == [
        alone(**one, sampling=PENALTY if i % 5 == 0 else SamplingParams()) for i, one in enumerate(wanted)
    ]
    assert sum(text.sequence.num_cached_tokens > 0 for text in texts) > 20
    assert scheduler.prefix_cache.num_evicted > 0


def test_other_shapes_are_sent_as_soon_as_they_are_told(start):
    """What is promised of a model may change while it has something to do all the time."""
    backend = FakeBackend()
    scheduler = start(backend)
    long = Text(max_tokens=10**6, end_id=None)
    scheduler.submit([[long.sequence]], SHAPES)
    until(lambda: len(backend.calls) > 3)
    text = Text(seed=1, max_tokens=5)
    scheduler.submit([[text.sequence]], BatchLimits((16,), 4, 4))
    assert text.finish() == alone(seed=1, max_tokens=5)
    seen = len(backend.calls)
    until(lambda: len(backend.calls) > seen + 3)
    assert {(call.batch_size, call.size <= 4) for call in backend.calls[seen + 1 :]} == {(16, True)}
