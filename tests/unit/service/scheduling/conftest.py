"""Schedulers on a fake backend."""

import pytest

from service.limits import Limits
from service.scheduling.scheduler import Scheduler
from tests.fakes import FakeBackend, FakeObserver


@pytest.fixture
def start():
    """Start schedulers that are stopped after the test."""
    running = []

    def start_one(backend=None, observer=None, **limits):
        limits = {"max_queued_tokens": 10**9, "prefix_cache_bytes": 0, **limits}
        scheduler = Scheduler(backend or FakeBackend(), Limits(**limits), observer or FakeObserver())
        scheduler.start()
        running.append(scheduler)
        return scheduler

    yield start_one
    for scheduler in running:
        scheduler.stop()
