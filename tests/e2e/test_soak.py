"""Minutes of mixed load while model servers are killed: outputs stay the same, and no resource leaks."""

import concurrent.futures
import contextlib
import itertools
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import FOUR_MODELS, TEXT
from tests.processes import status
from tests.servers import ModelServer

SOAK_S = 120
NUM_CLIENTS = 24
# Interval between two kills of a model server.
KILL_EVERY_S = 20
# The allocator keeps memory after a burst, which is no leak; a leak of 1 kB per request would exceed this limit.
MAX_GROWTH_BYTES = 24 * 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def requests():
    """Return requests of every kind, with their paths."""
    completions = [
        {
            "model": FOUR_MODELS[i % 4],
            "prompt": (TEXT * 9)[: 1 + 37 * i % 600],
            "max_tokens": 20 + 67 * i % 400,
            "seed": i,
            "n": 1 + i % 3,
            **[{}, {"top_p": 0.9}, {"frequency_penalty": 0.4}, {"logprobs": 2}, {"return_state": True}][i % 5],
        }
        for i in range(30)
    ]
    others = [
        ("/v1/embeddings", {"model": "lstm", "input": TEXT[:50]}),
        ("/v1/inspect", {"model": "lstm", "input": TEXT[:20]}),
        ("/v1/score", {"model": "lstm", "input": [TEXT[:20], TEXT[:200]], "tokens": True}),
    ]
    return [*(("/v1/completions", body) for body in completions), *others]


def content(gateway, path, body):
    """Return the reproducible part of a response."""
    status, response = gateway.post(body, path, timeout=120)
    assert status == 200, response
    if "choices" in response:
        return [(choice["text"], choice["logprobs"]) for choice in response["choices"]]
    return {name: value for name, value in response.items() if name not in ("id", "created", "usage")}


def leave(gateway, seed):
    """Start a stream and disconnect in the middle."""
    with contextlib.closing(gateway.stream(model="lstm", prompt=TEXT[:30], max_tokens=20_000, seed=seed)) as events:
        next(events)


class Footprint:
    """The resources of a gateway's worker: resident bytes, threads, open files."""

    def __init__(self, gateway):
        pid = gateway.worker_pid
        self.resident_bytes, self.num_threads = status(pid, "VmRSS"), status(pid, "Threads")
        self.num_files = len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soak(gateway, expected, seconds):
    """Send requests from all clients for some seconds, comparing each response; return the number of requests."""
    deadline = time.monotonic() + seconds
    wanted = requests()

    def client(index):
        number = index
        while time.monotonic() < deadline:
            number += 1
            if number % 11 == 0:
                leave(gateway, number)
            else:
                path, body = wanted[number % len(wanted)]
                assert content(gateway, path, body) == expected[number % len(wanted)], body
        return number - index

    with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as pool:
        return sum(pool.map(client, range(NUM_CLIENTS)))


def settled(gateway):
    gateway.wait_until(lambda: gateway.accepted == 0)
    time.sleep(2)
    return Footprint(gateway)


def test_load_and_backend_crashes_leak_nothing(four_models_dir, own_model_server, start_gateway, tmp_path):
    """Outputs equal those of single requests; memory, threads and files stay near those after the warm-up."""
    servers = [own_model_server(four_models_dir) for _ in range(2)]
    gateway = start_gateway(backends=",".join(f"127.0.0.1:{server.port}" for server in servers), backend_grace_s=120)
    expected = [content(gateway, path, body) for path, body in requests()]
    # After this warm-up, the allocator, the prefix cache and the thread pools have reached their size.
    assert soak(gateway, expected, 20) > 0
    before = settled(gateway)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        load = pool.submit(soak, gateway, expected, SOAK_S)
        for number in itertools.count():
            if not concurrent.futures.wait([load], KILL_EVERY_S).not_done:
                break
            killed = servers[number % 2]
            killed.end(signal.SIGKILL)
            servers[number % 2] = ModelServer(four_models_dir, tmp_path / f"again{number}.log", port=killed.port)
        num_requests = load.result()
    after = settled(gateway)
    for server in servers:
        server.end()
    assert num_requests > SOAK_S
    assert after.resident_bytes - before.resident_bytes < MAX_GROWTH_BYTES
    assert after.num_threads <= before.num_threads + NUM_CLIENTS
    assert after.num_files <= before.num_files + NUM_CLIENTS
    assert gateway.get("/v1/status")[1]["memory"]["accepted"] == 0
