"""Schedulers on a fake backend."""

import pytest

from service.settings import Settings
from tests.fakes import FakeBackend, FakeObserver
from tests.unit.service.scheduling.sequences import CountingScheduler


@pytest.fixture
def start():
    """Start schedulers that are stopped after the test."""
    running = []

    def start_one(backend=None, observer=None, **settings):
        settings = {"prefix_cache_bytes": 0, **settings}
        scheduler = CountingScheduler(backend or FakeBackend(), Settings(**settings), observer or FakeObserver())
        scheduler.start()
        running.append(scheduler)
        return scheduler

    yield start_one
    for scheduler in running:
        scheduler.stop()
