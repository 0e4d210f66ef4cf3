"""Fixtures of the batch tests: a scripted server as the gateway, and waits that are recorded and take no time."""

import json

import pytest

from sostenuto._retries import LinkedEvent
from tests.unit.client.conftest import _clean_environment, server  # noqa: F401 - fixtures are used by name


class Waits(list):
    """The seconds of every wait before a retry.

    Attributes:
        on_wait: Called instead of waiting.
    """

    def on_wait(self):
        """Do nothing."""


@pytest.fixture
def waits(monkeypatch):
    """Record the waits before retries, without waiting."""
    recorded = Waits()

    def wait(event, timeout_s=None):
        recorded.append(timeout_s)
        recorded.on_wait()
        return event.is_set()

    monkeypatch.setattr(LinkedEvent, "wait", wait)
    return recorded


@pytest.fixture
def write_requests(tmp_path):
    """Write IN: a string becomes a valid line with that custom_id; bytes are written unchanged."""

    def write(*lines):
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"".join(line if isinstance(line, bytes) else request(line) for line in lines))
        return path

    return write


def request(name):
    """Return a valid line of IN."""
    fields = {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": name}}
    return json.dumps(fields).encode() + b"\n"
