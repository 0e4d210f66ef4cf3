"""Gateways that restart under load, and a backend with invalid responses: no model is missing and no stream fails."""

import concurrent.futures
import os
import signal
import threading
import time
from collections import Counter

import pytest

from sostenuto import Client as Sdk
from tests.backends import INVALID_RESPONSES, NUM_STREAMS, Proxy, bodies
from tests.servers import children

NUM_CLIENTS = 12


def ask_until(gateway, ended, statuses):
    """Send small requests, one after another, and count status and error code of each."""
    seed = 0
    while not ended.is_set() and seed < 5_000:
        seed += 1
        name = ("lstm", "words", "lstm:1", "words@stable")[seed % 4]
        status, answer = gateway.post({"model": name, "prompt": "It was", "max_tokens": 2, "seed": seed})
        statuses[status, (answer or {}).get("error", {}).get("code")] += 1
        if status != 200:
            # Clients back off, too; otherwise most requests would be refused ones.
            ended.wait(0.05)


def restart(gateway, number):
    """Replace the worker, and wait until another one serves."""
    before = gateway.worker_pid
    os.kill(before if number == signal.SIGKILL else gateway.process.pid, number)
    deadline = time.monotonic() + 120
    while True:
        status, _ = gateway.get("/readyz")
        if status == 200 and before not in children(gateway.process.pid):
            return
        assert time.monotonic() < deadline, gateway.output[-3000:]
        time.sleep(0.02)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL], ids=["SIGHUP", "kill -9 of the worker"])
def test_no_model_is_missing_while_a_worker_starts(two_models_dir, own_model_server, start_gateway, number, tmp_path):
    """Every request succeeds, is refused with 503, or loses its connection with the worker; streams are resumed."""
    key = tmp_path / "state.key"
    key.write_text("k" * 40)
    server = own_model_server(two_models_dir)
    gateway = start_gateway(repository=two_models_dir, backend=server.port, state_key_file=key, drain_s=2)
    wanted = [{**body, "max_tokens": 2000} for body in bodies()[:16]]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        expected = list(pool.map(lambda body: gateway.text(**body), wanted))
    ended, statuses = threading.Event(), Counter()

    def resumed(body):
        with Sdk(f"http://127.0.0.1:{gateway.port}") as sdk, sdk.stream(**body, resume=True) as stream:
            return "".join(stream)

    with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS + 16) as pool:
        clients = [pool.submit(ask_until, gateway, ended, statuses) for _ in range(NUM_CLIENTS)]
        streams = [pool.submit(resumed, body) for body in wanted]
        try:
            for _ in range(3):
                time.sleep(0.5)
                restart(gateway, number)
            texts = [stream.result(300) for stream in streams]
        finally:
            ended.set()
        for client in clients:
            client.result(60)
    print(f"{number.name}: {sum(statuses.values())} requests, {dict(statuses)}")
    assert statuses.keys() <= {(200, None), (0, None), (503, "model_loading"), (503, "shutting_down")}
    assert statuses[200, None] > 100
    assert texts == expected


@pytest.mark.timeout(1200)
def test_streams_outlast_invalid_responses_of_the_only_backend(two_models_dir, own_model_server, start_gateway):
    """Whatever the fault, they pause while it lasts and are byte-identical in the end."""
    proxy = Proxy(own_model_server(two_models_dir).port)
    try:
        alone = start_gateway(repository=two_models_dir, backend=proxy.port, backend_grace_s=120)
        wanted = bodies(max_tokens=1000)[:24]
        with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
            expected = list(pool.map(lambda body: alone.text(**body), wanted))
            for name, fault in INVALID_RESPONSES.items():
                running = [pool.submit(alone.streamed_text, **body) for body in wanted]
                time.sleep(0.2)
                proxy.fault, proxy.num_faults = fault, 0
                time.sleep(2)
                proxy.fault = None
                assert [text.result(240) for text in running] == expected, name
                assert proxy.num_faults, f"{name}: choose longer streams"
    finally:
        proxy.end()
