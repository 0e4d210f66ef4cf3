"""The place of a trainer that runs the fake exporter."""

import os

import pytest

from jobs import trainer as module
from tests.databases import new_database
from tests.paths import ROOT
from tests.unit.jobs.place import FAKE, Place


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXPORT", FAKE)
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(module, "LEASE_S", 1.0)
    monkeypatch.setattr(module, "DATABASE_S", 0.1)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    with new_database(getattr(request, "param", "sqlite"), tmp_path) as url:
        place = Place(tmp_path, url)
        yield place
        place.stop()
        place.store.close()
