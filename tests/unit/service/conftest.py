"""A repository with two versions of `demo`, and a model server that has them."""

import pytest

from tests.paths import ROOT


@pytest.fixture
def server():
    """A server that has two versions of `demo`."""
    from tests.registries import FakeServer

    server = FakeServer()
    server.models = {"demo": {1: "", 2: ""}}
    return server


@pytest.fixture
def two_versions(tmp_path):
    """A repository with both versions, in the test's own directory."""
    from tests.registries import add

    for version in (1, 2):
        add(tmp_path, "demo", version)
    return tmp_path


@pytest.fixture
def path_of_sdk(monkeypatch):
    """Processes of reports import the checkout's SDK."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "client/src"))
