"""Fixtures of the client's tests: a scripted server, a client of it, and recorded waits that take no time."""

from pathlib import Path

import pytest

from sostenuto import Client
from sostenuto._retries import LinkedEvent
from tests.unit.client.scripted_jobs import TEXT
from tests.unit.client.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    ours = "SOSTENUTO_BASE_URL SOSTENUTO_API_KEY SOSTENUTO_MODEL NO_COLOR FORCE_COLOR COLUMNS"
    for name in (*ours.split(), "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


class Waits(list):
    """The waits before further attempts, in seconds. `on_wait` is called in place of each."""

    def on_wait(self):
        """Do nothing."""


@pytest.fixture
def waits(monkeypatch):
    """The waits before further attempts: recorded, not slept, and without jitter."""
    noted, real_wait = Waits(), LinkedEvent.wait

    def wait(event, timeout_s=None):
        if timeout_s is None:  # for another thread, without a timeout
            return real_wait(event)
        noted.append(timeout_s)
        noted.on_wait()
        return event.is_set()

    monkeypatch.setattr(LinkedEvent, "wait", wait)
    monkeypatch.setattr("random.random", lambda: 0.0)
    return noted


@pytest.fixture
def server():
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server, waits):  # noqa: ARG001 - no test should sleep
    with Client(server.url) as made:
        yield made


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The name of a text in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT)
    return "book.txt"
