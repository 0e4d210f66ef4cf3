"""Fair slots: no request blocks or starves another one, and preemption changes no sequence."""

import threading

import pytest

from service.errors import BackendUnavailable, InternalError
from service.scheduling.sequence import ModelVersion
from tests.fakes import FakeBackend, FakeObserver
from tests.unit.service.scheduling.sequences import SHAPES, Text, alone
from tests.waiting import until

ENDLESS = {"max_tokens": 10**6, "end_id": None}


class CountingBackend(FakeBackend):
    """Counts the sequences that are in calls at the same time."""

    most, _now, _count_lock = 0, 0, threading.Lock()

    def call(self, call, done):
        def leave(outcome, probe_hash):
            self._count(-len(call.sequences))
            done(outcome, probe_hash)

        self._count(len(call.sequences))
        super().call(call, leave)

    def _count(self, change):
        with self._count_lock:
            self._now += change
            self.most = max(self.most, self._now)


def submit(scheduler, texts):
    scheduler.submit([[text.sequence for text in texts]], SHAPES)
    return texts


def choices(count, **wanted):
    return [Text(**wanted, choice=choice) for choice in range(count)]


def test_no_more_sequences_run_than_there_are_slots(start):
    backend = CountingBackend()
    scheduler = start(backend, max_running=6, max_queued=100, max_calls=4)
    requests = [submit(scheduler, choices(9, prompt=(1, 2, 3), seed=seed)) for seed in range(5)]
    for seed, texts in enumerate(requests):
        expected = [alone(prompt=(1, 2, 3), seed=seed, choice=choice) for choice in range(9)]
        assert [text.finish() for text in texts] == expected
    assert backend.most <= 6
    until(lambda: scheduler.num_sequences == 0)


def test_a_request_that_holds_every_slot_is_preempted(start):
    scheduler = start(max_running=4, max_queued=50)
    long = {"prompt": (3, 4, 5), "max_tokens": 700, "end_id": None}
    expected = [alone(max_tokens=5, seed=seed) for seed in range(9)]
    wide = submit(scheduler, choices(6, **long))
    until(lambda: all(not text.events.empty() for text in wide[:4]))
    narrow = [scheduler.submit_one(max_tokens=5, seed=seed) for seed in range(9)]
    outcomes = [text.finish() for text in narrow]
    assert wide[0].sequence.num_generated < 700
    assert outcomes == expected
    outcomes = [text.finish(timeout=60) for text in wide]
    assert outcomes == [alone(**long, choice=choice) for choice in range(6)]
    assert [reason for _, reason in outcomes] == ["length"] * 6


def test_slots_are_shared_fairly_between_models(start):
    scheduler = start(max_running=4, max_queued=50)
    wide = submit(scheduler, choices(4, **ENDLESS))
    until(lambda: all(not text.events.empty() for text in wide))
    other = scheduler.submit_one(model=ModelVersion("other", 1), max_tokens=4)
    assert other.finish() == alone(max_tokens=4)
    scheduler.cancel([text.sequence for text in wide])


class FaultyObserver(FakeObserver):
    """Fails once, on the first decode call."""

    has_failed = False

    def call_completed(self, call, seconds):
        super().call_completed(call, seconds)
        if call.is_decode and not self.has_failed:
            self.has_failed = True
            raise RuntimeError("a fault")


@pytest.mark.parametrize("where", ["prefixes", "observer"])
def test_an_exception_after_a_reply_strands_no_sequence(start, where, monkeypatch):
    observer = FaultyObserver() if where == "observer" else FakeObserver()
    backend = FakeBackend(held=True)
    scheduler = start(backend, observer=observer, prefix_cache_bytes=10**6, max_running=4, max_queued=60)
    if where == "prefixes":
        honest, calls = scheduler.prefix_cache.keep, []

        def fail_once(prefix, state):
            calls.append(prefix)
            if len(calls) == 3:
                raise RuntimeError("a fault")
            honest(prefix, state)

        monkeypatch.setattr(scheduler.prefix_cache, "keep", fail_once)
    fields = {"cache_namespace": "mine", **ENDLESS}
    texts = [scheduler.submit_one(prompt=(3, 4, 5), seed=seed, **fields) for seed in range(16)]
    texts += submit(scheduler, choices(8, prompt=(6, 7, 8), **fields))
    backend.release(10_000)
    assert {type(text.finish()[1]) for text in texts} == {InternalError}
    until(lambda: scheduler.num_sequences == 0)
    again = submit(scheduler, choices(4, max_tokens=5))
    assert [text.finish() for text in again] == [alone(max_tokens=5, choice=choice) for choice in range(4)]


class HalfBackend(FakeBackend):
    """Fails all calls of one model, until told otherwise."""

    model = None

    def call(self, call, done):
        if call.version == self.model:
            done(BackendUnavailable("away"), None)
        else:
            super().call(call, done)


def test_a_model_in_an_outage_keeps_one_slot_only_while_others_wait(start):
    broken, healthy = ModelVersion("broken", 1), ModelVersion("healthy", 1)
    backend = HalfBackend(held=True)
    backend.model = broken
    scheduler = start(backend, max_running=4, backend_grace_s=60.0)
    waiting = [scheduler.submit_one(model=broken, seed=seed) for seed in range(9)]
    until(lambda: any(running == 4 for running, _ in scheduler.loads.values()))
    others = [scheduler.submit_one(model=healthy, seed=seed) for seed in range(9)]
    until(lambda: {key: running for key, (running, _) in scheduler.loads.items()} == {broken: 1, healthy: 3})
    backend.release(10_000)
    assert [text.finish() for text in others] == [alone(seed=seed) for seed in range(9)]
    assert all(text.events.empty() for text in waiting)
    backend.model = None
    assert [text.finish() for text in waiting] == [alone(seed=seed) for seed in range(9)]
    until(lambda: scheduler.num_sequences == 0)
