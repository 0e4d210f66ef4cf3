"""Fixtures of the client's tests: a scripted server, a client of it, and recorded waits that take no time."""

import subprocess
import sys
from pathlib import Path

import pytest

from sostenuto import Client
from sostenuto._retries import LinkedEvent
from tests.terminals import environment
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
def process(server):
    """Start a command as a process with pipes, against the scripted server."""
    started = []

    def start(*arguments, stdin=subprocess.DEVNULL, **variables):
        command, pipe = [sys.executable, "-m", "sostenuto", *arguments], subprocess.PIPE
        variables = environment(**{"SOSTENUTO_BASE_URL": server.url, **variables})
        started.append(subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, env=variables))
        return started[-1]

    yield start
    for running in started:
        running.kill()
        running.communicate()


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The name of a text in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT)
    return "book.txt"
