"""What the tests of batch share: a scripted server in the gateway's place, and waits that are only noted."""

import json

import pytest

from service.batch.retries import Patience
from tests.unit.client.scripted_server import ScriptedServer


class NotedPatience(Patience):
    """Notes what would be waited for."""

    def __init__(self):
        super().__init__(600.0)
        self.waits = []

    def wait(self, seconds, trouble):
        self.waits.append((seconds, trouble))
        super().wait(0, trouble)


@pytest.fixture
def server():
    """A running server with an empty script."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def patience():
    """Waits take no time."""
    return NotedPatience()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("OSTINATO_BASE_URL", "OSTINATO_API_KEY", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def write_requests(tmp_path):
    """Write IN: a name or a pair of name and body is a sound line, bytes are taken as they are."""

    def write(*lines):
        path = tmp_path / "in.jsonl"
        path.write_bytes(b"".join(line if isinstance(line, bytes) else request(line) for line in lines))
        return path

    return write


def request(name):
    """Make a sound line."""
    fields = {"custom_id": name, "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": name}}
    return json.dumps(fields).encode() + b"\n"
