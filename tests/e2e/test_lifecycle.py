"""Clients leave, queues fill, servers stop and start: nothing is lost and nothing is left behind."""

import concurrent.futures
import json
import os
import select
import signal
import socket
import threading
import time

import pytest

from tests.e2e.conftest import AMPLE
from tests.servers import Gateway
from tests.waiting import until

# Longer than any test waits.
LONG = {"model": "lstm", "prompt": "It was", "max_tokens": 10_000_000, "seed": 1}


class Pending:
    """A request that was sent, and whose answer is not waited for until it is asked for."""

    def __init__(self, gateway, **fields):
        self._connection = gateway.connect()
        self._connection.request("POST", "/v1/completions", json.dumps({**LONG, **fields}))
        self._response = None
        self.sock = self._connection.sock

    @property
    def response(self):
        """The answer, once its head has come."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def close(self):
        """Close both ends of it: a response keeps its socket open."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def is_accepted(gateway):
    """Return whether a request is queued rather than refused, as it has no answer yet; it is withdrawn."""
    return gateway.ask("POST", "/v1/completions", json.dumps(LONG), timeout=0.5)[0] == 0


def begin_waiting(gateway):
    """Send requests until one is queued, and return its connection."""
    for _ in range(50):
        connection = Pending(gateway)
        if not select.select([connection.sock], [], [], 0.5)[0]:
            return connection
        connection.close()
    raise AssertionError("never accepted")


@pytest.fixture(scope="module")
def narrow_gateway(two_models_dir, model_server, tmp_path_factory):
    """A gateway with room for one text and no queue."""
    log = tmp_path_factory.mktemp("narrow") / "gateway.log"
    gateway = Gateway(two_models_dir, model_server.port, log, **AMPLE, max_running=1, max_queued=0)
    yield gateway
    gateway.kill()


def accepted(gateway):
    """Return how many texts the gateway has accepted and not ended."""
    return gateway.get("/v1/status")[1]["sequences"]["accepted"]


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "not streaming"])
def test_a_client_that_leaves_frees_its_row(narrow_gateway, stream):
    """With room for one text, a second one is answered once the first client has gone."""
    gateway = narrow_gateway
    until(lambda: accepted(gateway) == 0)
    connection = Pending(gateway, stream=stream)
    # Asked before it has its place, the second text would be let in and the first one refused.
    until(lambda: accepted(gateway) == 1)
    assert gateway.post({**LONG, "max_tokens": 1})[0] == 429
    connection.close()
    until(lambda: gateway.post({**LONG, "max_tokens": 1})[0] == 200)


def test_a_client_that_half_closes_is_told_that_its_text_is_not_whole(gateway):
    """It counts as gone; should it still read, it does not find a text that looks finished."""
    for stream in (True, False):
        pending = Pending(gateway, max_tokens=90_000, stream=stream)
        time.sleep(0.2)
        pending.sock.shutdown(socket.SHUT_WR)
        status, body = pending.response.status, pending.response.read()
        pending.close()
        assert b"client_gone" in body
        assert b"[DONE]" not in body
        assert stream or status == 499


def test_a_client_that_leaves_the_queue_frees_its_place(start_gateway):
    """A request that has not begun is forgotten as well."""
    gateway = start_gateway(max_running=1, max_queued=1)
    running = Pending(gateway, stream=True)
    assert running.response.status == 200
    waiting = begin_waiting(gateway)
    assert not is_accepted(gateway)
    waiting.close()
    until(lambda: is_accepted(gateway))
    running.close()
    until(lambda: gateway.post({**LONG, "max_tokens": 1})[0] == 200)


def test_a_full_queue_answers_at_once_and_says_when_to_come_back(narrow_gateway):
    """Beyond the bound the answer is 429 with Retry-After, while the running text goes on."""
    gateway = narrow_gateway
    until(lambda: accepted(gateway) == 0)
    connection = Pending(gateway, stream=True)
    stream = connection.response
    stream.readline()
    status, headers, body = gateway.ask("POST", "/v1/completions", json.dumps(LONG))
    assert status == 429
    assert int(headers["Retry-After"]) >= 1
    assert json.loads(body)["error"]["code"] == "queue_full"
    assert stream.readline() is not None
    connection.close()


def test_sigterm_lets_accepted_requests_finish_and_refuses_new_ones(start_gateway):
    """Requests in the making are answered whole, new ones get 503, and then the process ends with 0."""
    gateway = start_gateway(drain_s=20)
    expected = gateway.text(**{**LONG, "max_tokens": 20_000})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        whole = pool.submit(gateway.text, **{**LONG, "max_tokens": 20_000})
        streamed = pool.submit(gateway.streamed_text, **{**LONG, "max_tokens": 20_000})
        blocker = Pending(gateway, stream=True, max_tokens=100_000)
        until(lambda: gateway.get("/v1/status")[1]["sequences"]["accepted"] == 3)
        gateway.send(signal.SIGTERM)
        until(lambda: gateway.ask("POST", "/v1/completions", json.dumps({**LONG, "max_tokens": 1}))[0] == 503)
        status, _, body = gateway.ask("GET", "/readyz")
        assert (status, json.loads(body)["error"]["code"]) == (503, "shutting_down")
        assert whole.result(60) == expected
        assert streamed.result(60) == expected
    blocker.close()
    assert gateway.process.wait(20) == 0


def test_a_text_that_outlasts_the_drain_ends_with_an_error_event(start_gateway):
    """A stream is never just cut: its last event says that the server was shut down."""
    gateway = start_gateway(drain_s=2)
    events = []

    def read():
        events.extend(gateway.stream(**LONG))

    reader = threading.Thread(target=read)
    reader.start()
    until(lambda: len(events) == 0 and reader.is_alive() and gateway.get("/healthz")[0] == 200)
    time.sleep(0.3)
    gateway.send(signal.SIGTERM)
    reader.join(20)
    assert not reader.is_alive()
    assert events[-1]["error"]["code"] == "shutting_down"
    assert gateway.process.wait(10) == 0


def test_a_gateway_without_a_model_server_lives_but_is_not_ready(start_gateway):
    """/healthz says that the process lives, /readyz that no model answers; a model that is listed may yet come."""
    gateway = start_gateway(backend=1, ready=False)
    assert gateway.get("/healthz")[0] == 200
    assert gateway.get("/readyz")[0] == 503
    for ask in (lambda: gateway.post(LONG), lambda: gateway.get("/v1/models"), lambda: gateway.get("/v1/models/lstm")):
        status, answer = ask()
        assert (status, answer["error"]["code"]) == (503, "model_loading")
    until(lambda: gateway.post({**LONG, "model": "nope"})[0] == 404)


def test_a_worker_is_small_and_has_no_tensorflow(start_gateway):
    """Serving, the worker stays under 120 MB and maps no TensorFlow."""
    gateway = start_gateway()
    for seed in range(20):
        gateway.text(**{**LONG, "max_tokens": 50, "seed": seed})
    with open(f"/proc/{gateway.worker_pid}/status") as status:
        resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    assert resident < 120 * 1024
    with open(f"/proc/{gateway.worker_pid}/maps") as maps:
        assert "tensorflow_framework" not in maps.read()


def test_a_port_in_use_is_one_line(gateway, models_dir):
    """A second gateway on the port says so and ends with 1."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "service", "serve"],
        env={**os.environ, "OSTINATO_PORT": str(gateway.port), "OSTINATO_MODELS_DIR": str(models_dir)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"error: cannot listen on 127.0.0.1:{gateway.port}: Address already in use\n"
