"""Gateways that restart under load, and backends with invalid responses: no model is missing and no stream fails."""

import concurrent.futures
import os
import signal
import threading
import time
from collections import Counter

import numpy as np
import pytest

from service.backends.messages import to_proto
from sostenuto import Client as Sdk
from tests.backends import INVALID_RESPONSES, NUM_STREAMS, Proxy, bodies, changed, foreign_ids, left_out, spoil_state
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
def test_no_model_is_missing_while_a_worker_starts(four_models_dir, own_model_server, start_gateway, number, tmp_path):
    """Every request succeeds, is refused with 503, or loses its connection with the worker; streams are resumed."""
    key = tmp_path / "state.key"
    key.write_text("k" * 40)
    server = own_model_server(four_models_dir)
    gateway = start_gateway(repository=four_models_dir, backend=server.port, state_key_file=key, drain_s=2)
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


def positive_logprobs(answer):
    """Make log probabilities positive; without any, drop the state."""
    if "logprobs" in answer.outputs:
        shape = [dim.size for dim in answer.outputs["logprobs"].tensor_shape.dim]
        answer.outputs["logprobs"].CopyFrom(to_proto(np.ones(shape, np.float32)))
    else:
        answer.outputs.pop("state")


def other_type(answer):
    shape = [dim.size for dim in answer.outputs["state"].tensor_shape.dim]
    answer.outputs["state"].CopyFrom(to_proto(np.zeros(shape, np.int32)))


INVALID = {
    **INVALID_RESPONSES,
    "another type": changed(other_type),
    "ids outside the vocabulary": changed(lambda answer: foreign_ids(answer) or spoil_prefill(answer)),
    "log probabilities above 0": changed(positive_logprobs),
}


def spoil_prefill(answer):
    if "token_ids" not in answer.outputs:
        answer.outputs.pop("state")


@pytest.mark.timeout(1200)
def test_streams_outlast_invalid_responses_of_the_only_backend(four_models_dir, own_model_server, start_gateway):
    proxy = Proxy(own_model_server(four_models_dir).port)
    try:
        alone = start_gateway(repository=four_models_dir, backend=proxy.port, backend_grace_s=120)
        wanted = bodies(max_tokens=1000)[:24]
        with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
            expected = list(pool.map(lambda body: alone.text(**body), wanted))
            for name, fault in INVALID.items():
                running = [pool.submit(alone.streamed_text, **body) for body in wanted]
                time.sleep(0.2)
                proxy.fault, proxy.num_faults = fault, 0
                time.sleep(2)
                proxy.fault = None
                assert [text.result(240) for text in running] == expected, name
                assert proxy.num_faults, f"{name}: choose longer streams"
    finally:
        proxy.end()


@pytest.mark.timeout(900)
def test_a_backend_with_seconds_of_invalid_responses_is_readmitted(four_models_dir, own_model_server, start_gateway):
    real = [own_model_server(four_models_dir) for _ in range(2)]
    proxy = Proxy(real[0].port)
    try:
        both = start_gateway(repository=four_models_dir, backends=f"127.0.0.1:{proxy.port},127.0.0.1:{real[1].port}")
        both.wait_until(lambda: left_out(both) == [])
        wanted = bodies(max_tokens=1000)[:24]
        with concurrent.futures.ThreadPoolExecutor(NUM_STREAMS) as pool:
            expected = list(pool.map(lambda body: both.text(**body), wanted))
            for fault in (changed(spoil_state), changed(foreign_ids)):
                running = [pool.submit(both.streamed_text, **body) for body in wanted]
                time.sleep(0.2)
                proxy.fault, proxy.num_faults = fault, 0
                time.sleep(8)
                assert left_out(both) == [proxy.port]
                proxy.fault = None
                assert [text.result(240) for text in running] == expected
                both.wait_until(lambda: left_out(both) == [], timeout=120)
                # It gets half of the calls again, because both backends compute the same bits.
                calls = []

                def counted(request, _context, onward, calls=calls):
                    calls.append(request)
                    return onward(request, timeout=20)

                proxy.fault = counted
                assert list(pool.map(lambda body: both.text(**body), wanted)) == expected
                assert calls
                proxy.fault = None
    finally:
        proxy.end()
