"""Disconnects, full queues, shutdown and startup: nothing is lost and nothing is left behind."""

import concurrent.futures
import json
import os
import signal
import socket
import time

import pytest

from tests.waiting import until

# Longer than any test runs.
LONG = {"model": "lstm", "prompt": "It was", "max_tokens": 10_000_000, "seed": 1}


class Pending:
    """A request that was sent; its response is read only on demand."""

    def __init__(self, gateway, **fields):
        self._connection = gateway.connect()
        self._connection.request("POST", "/v1/completions", json.dumps({**LONG, **fields}))
        self._response = None
        self.sock = self._connection.sock

    @property
    def response(self):
        """The response, once its headers have arrived."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def close(self):
        """Close response and connection: an open response would keep the socket open."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


@pytest.fixture(scope="module")
def narrow_gateway(start_shared_gateway):
    """A gateway with one slot and no queue."""
    return start_shared_gateway(max_running=1, max_queued=0, max_timeout_s=300)


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_disconnected_client_frees_its_slot(narrow_gateway, stream):
    gateway = narrow_gateway
    until(lambda: gateway.accepted == 0)
    connection = Pending(gateway, stream=stream)
    # Without this wait, the second request could be admitted first, and the first one rejected.
    until(lambda: gateway.accepted == 1)
    status, headers, body = gateway.ask("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 1}))
    assert (status, json.loads(body)["error"]["code"]) == (429, "queue_full")
    assert int(headers["Retry-After"]) >= 1
    connection.close()
    until(lambda: gateway.post({**LONG, "max_tokens": 1})[0] == 200)


def test_a_half_closed_connection_counts_as_a_disconnect(gateway):
    """If the client still reads, it gets the error `client_gone`, so that a cut-off text does not look complete."""
    for stream in (True, False):
        pending = Pending(gateway, max_tokens=90_000, stream=stream)
        time.sleep(0.2)
        pending.sock.shutdown(socket.SHUT_WR)
        status, body = pending.response.status, pending.response.read()
        pending.close()
        assert b"client_gone" in body
        assert b"[DONE]" not in body
        assert stream or status == 499


def test_sigterm_finishes_accepted_requests_and_rejects_new_ones(start_gateway):
    gateway = start_gateway(drain_s=120)
    expected = gateway.text(**{**LONG, "max_tokens": 10_000})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        whole = pool.submit(gateway.text, **{**LONG, "max_tokens": 10_000})
        streamed = pool.submit(gateway.streamed_text, **{**LONG, "max_tokens": 10_000})
        blocker = Pending(gateway, stream=True, max_tokens=50_000)
        until(lambda: gateway.accepted == 3)
        gateway.send(signal.SIGTERM)
        until(lambda: gateway.ask("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 1}))[0] == 503)
        status, _, body = gateway.ask("GET", "/readyz")
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert whole.result(60) == expected
        assert streamed.result(60) == expected
    blocker.close()
    assert gateway.process.wait(20) == 0


def test_a_port_in_use_is_a_one_line_error(gateway):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        env={**os.environ, "SOSTENUTO_PORT": str(gateway.port), "SOSTENUTO_BACKENDS": "127.0.0.1:1"},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"error: cannot listen on 127.0.0.1:{gateway.port}: Address already in use\n"
