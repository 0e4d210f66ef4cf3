"""The benchmark tools measure what they claim to measure."""

import contextlib
import random
import socket

import pytest

from benchmarks.load import Connection, LoadError, run_arrivals, run_load
from benchmarks.servers import start_measurement

BODY = {"model": "lstm", "prompt": "It was", "max_tokens": 30, "temperature": 0.8}


@pytest.mark.parametrize("keep_alive", [True, False])
def test_the_load_generator_counts_every_token(gateway, keep_alive):
    load = run_load(gateway.port, BODY, concurrency=4, num_requests=10, keep_alive=keep_alive)
    assert load.tokens == 300
    assert len(load.first_s) == 10
    assert all(0 < first <= load.seconds for first in load.first_s)
    assert load.first_ms(1) == 1000 * max(load.first_s)
    assert load.first_ms(1) >= load.first_ms(0.5) >= load.first_ms(0.01) == 1000 * min(load.first_s)


def test_requests_are_sent_at_random_times(gateway):
    load = run_arrivals(gateway.port, BODY, rate=20, num_requests=10)
    assert load.tokens == 300
    assert len(load.first_s) == 10
    rng = random.Random(0)
    assert load.seconds > sum(rng.expovariate(20) for _ in range(9))


def test_the_load_generator_fails_on_an_error_response(gateway):
    """A response that is not a stream of text ends the measurement, so that errors do not count as fast requests."""
    with pytest.raises(LoadError, match="refused"):
        run_load(gateway.port, {**BODY, "model": "nope"}, concurrency=1, num_requests=1)


def test_the_load_generator_measures_the_time_between_chunks():
    ours, servers = socket.socketpair()
    with ours, servers:
        connection = Connection(ours)
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        for content in (b"HTTP/1.1 200 OK\r\n\r\n", b"data: a\n\n", b"data: b\n\n", b"data: [DONE]\r\n0\r\n\r\n"):
            servers.sendall(content)
            complete = connection.receive()
    assert complete
    assert len(connection.gaps_s) == 2
    assert connection.sent_at + connection.first_s + sum(connection.gaps_s) == pytest.approx(connection.chunk_at)


@pytest.mark.slow
def test_the_baseline_in_one_process_completes_whole_requests(models_dir):
    with contextlib.ExitStack() as stack:
        measure = start_measurement(stack, "benchmarks.baselines", "model", f"--version={models_dir / 'lstm' / '1'}")
        assert measure(batch_size=8, seconds=0.1) > 0
