"""Fixtures of the client's tests: a scripted server, a client of it, and recorded waits that take no time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sostenuto import Client
from sostenuto._retries import LinkedEvent
from tests.unit.client.scripted_server import ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOSTENUTO_BASE_URL", "SOSTENUTO_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits before further attempts, in seconds: recorded, not slept, and without jitter."""
    noted: list[float] = []
    real_wait = LinkedEvent.wait

    def wait(event: LinkedEvent, timeout_s: float | None = None) -> bool:
        if timeout_s is None:  # for another thread, without a timeout
            return real_wait(event)
        noted.append(timeout_s)
        return event.is_set()

    monkeypatch.setattr(LinkedEvent, "wait", wait)
    monkeypatch.setattr("random.random", lambda: 0.0)
    return noted


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A running server with an empty script."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, waits: list[float]) -> Iterator[Client]:  # noqa: ARG001 - no test should sleep
    """A client of the scripted server."""
    with Client(server.url) as made:
        yield made
