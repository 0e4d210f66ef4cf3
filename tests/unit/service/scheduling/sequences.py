"""Sequences for tests of the scheduler, and the outcome of one that runs alone."""

import itertools
import queue
import threading
from functools import partial

import numpy as np

from service.scheduling.queues import BatchLimits
from service.scheduling.sampling_inputs import SamplingParams
from service.scheduling.scheduler import Scheduler
from service.scheduling.sequence import ModelVersion
from service.settings import Settings
from tests.fakes import END, STATE_SIZE, FakeBackend, FakeObserver, make_sequence

SHAPES = BatchLimits(batch_sizes=(8, 16), max_steps=8, max_length=16)
MODEL = ModelVersion("fake", 1)
PENALTY = SamplingParams(frequency_penalty=2.0)


class CountingScheduler(Scheduler):
    """A scheduler that counts the sequences that it has not released."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.num_sequences, self._count_lock = 0, threading.Lock()

    def _count(self, change):
        with self._count_lock:
            self.num_sequences += change

    def submit(self, groups, limits, number=None):
        for sequence in itertools.chain(*groups):
            self._count(1)
            sequence.release = partial(self._count, -1)
        return super().submit(groups, limits, number)

    def submit_one(self, limits=SHAPES, **wanted):
        text = Text(**wanted)
        self.submit([[text.sequence]], limits)
        return text


class Text:
    def __init__(self, prompt=(7,), choice=0, model=MODEL, **more):
        self.events = queue.SimpleQueue()
        fields = {"max_tokens": 20, "seed": 0, "end_id": END, "state": np.zeros(STATE_SIZE, np.float32), **more}
        fields |= {"version": model, "prompt_ids": np.array(prompt, np.int32), "random_stream": choice}
        self.sequence = make_sequence(**fields, deliver=self.events.put)

    def finish(self, timeout=10):
        """Return all token ids and how the sequence finished: a reason or an error."""
        token_ids = []
        while True:
            event = self.events.get(timeout=timeout)
            if event.error:
                return token_ids, event.error
            token_ids += event.token_ids
            if event.finish_reason:
                return token_ids, event.finish_reason


def alone(**wanted):
    """Return the outcome of a sequence in an idle scheduler, with one decode step per call."""
    scheduler = Scheduler(FakeBackend(), Settings(prefix_cache_bytes=0), FakeObserver())
    scheduler.start()
    text = Text(**wanted)
    scheduler.submit([[text.sequence]], BatchLimits((8,), 1, 4))
    outcome = text.finish()
    scheduler.stop()
    return outcome
