"""`sostenuto bench`: what it measures, and how it summarizes the results."""

from __future__ import annotations

import json
import math
import threading
import time
from functools import partial

import pytest

from sostenuto import Client
from sostenuto._cli.load import Figure, Request, Round, quantile, run_request, run_round
from tests.unit.client.scripted_responses import (
    COMPLETION,
    DONE,
    WHOLE,
    answer_json,
    chunk,
    refusal,
    stream,
    usage_chunk,
)


@pytest.fixture
def bench(sostenuto):
    """Run the command for completions of three tokens."""
    return partial(sostenuto, "bench", "--model", "tiny", "--max-tokens", "3")


def test_a_quantile_is_one_of_the_values_and_not_interpolated():
    """NaN if there are none."""
    values = [float(value) for value in range(100, 0, -1)]
    assert [quantile(values, share) for share in (0.5, 0.99, 1.0, 0.0)] == [50.0, 99.0, 100.0, 1.0]
    assert quantile([3.0], 0.99) == 3.0
    assert math.isnan(quantile([], 0.5))


def test_a_result_is_a_median_with_its_range():
    """Rounds without a measurement (NaN) are ignored."""
    assert Figure.of([3.0, 1.0, math.nan, 2.0]) == Figure(2.0, 1.0, 3.0)
    assert math.isnan(Figure.of([math.nan]).median)


def test_tokens_per_second_are_all_tokens_over_the_time_of_the_round():
    """Not the mean of the requests' own speeds."""
    made = Round(2.0, (Request(10, 0.1, (0.2, 0.3)), Request(30, 0.4, ())))
    assert made.tokens_per_s == 20.0
    assert (made.firsts_s, made.gaps_s) == ([0.1, 0.4], [0.2, 0.3])


def test_a_request_measures_time_to_first_token_and_gaps(client, server):
    """The first is from the request to the first text delta; events without text do not count."""
    server.script = [stream([chunk("a"), chunk("b"), chunk("c"), chunk("", "length"), usage_chunk(), DONE])]
    moments_s = iter([10.0, 11.0, 11.5, 13.0])
    request = run_request(client, {"prompt": "x", "model": "tiny"}, clock=lambda: next(moments_s))
    assert request == Request(num_tokens=3, first_s=1.0, gaps_s=(0.5, 1.5))


def test_a_round_runs_exactly_the_requested_number_of_requests_at_once(server):
    """Each request has its own seed."""
    lock, running, most = threading.Lock(), 0, 0
    gate = threading.Barrier(3, timeout=5)

    def count(handler):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)  # so that one request too many would be counted
        gate.wait()
        with lock:
            running -= 1
        stream(WHOLE)(handler)

    server.script = [count] * 9
    done = []
    with Client(server.url) as client:
        made = run_round(client, 3, 9, {"prompt": "x", "model": "tiny"}, lambda: done.append(1))
    assert (most, len(done), len(made.requests)) == (3, 9, 9)
    assert sorted(body["seed"] for body in server.bodies) == list(range(9))


def test_each_level_has_a_warmup_round(bench, server):
    """A first request finds out model, version and fingerprint; then each level has `--rounds` + 1 rounds."""
    server.script = [answer_json({**COMPLETION, "version": 4}), *[stream(WHOLE)] * 100]
    shown = bench("--concurrency", "2,1", "--requests", "3", "--rounds", "2", "--json")
    assert shown.exit_code == 0, shown.stderr
    assert len(server.requests) == 1 + 2 * 3 * 3
    assert {(body["max_tokens"], body["ignore_eos"]) for body in server.bodies[1:]} == {(3, True)}
    answer = json.loads(shown.stdout)
    assert [answer[name] for name in ("model", "version", "system_fingerprint", "rounds")] == ["tiny", 4, "fp-1", 2]
    assert [(level["concurrency"], level["requests"]) for level in answer["levels"]] == [(2, 3), (1, 3)]
    for level in answer["levels"]:
        for name in ("tokens_per_s", "first_s", "first_99th_s", "gap_s", "gap_99th_s"):
            figure = level[name]
            assert 0 < figure["low"] <= figure["median"] <= figure["high"]


def test_the_table_has_a_line_per_level_below_model_and_version(bench, server):
    """The first line also has the fingerprint and the numbers of tokens and rounds."""
    server.script = [answer_json({**COMPLETION, "version": 4}), *[stream(WHOLE)] * 100]
    shown = bench("--concurrency", "1,2", "--requests", "2", "--rounds", "1")
    first, _, heading, *rows = shown.stdout.splitlines()
    assert first == "tiny version 4, fp-1: 3 tokens per request, 1 rounds"
    assert heading.split("  ")[0] == "concurrency"
    assert [row.split()[0] for row in rows] == ["1", "2"]
    assert all(row.count("±0%") == 5 for row in rows)
    assert shown.stderr == ""


def test_a_failed_request_ends_the_benchmark(sostenuto, server):
    """One line on standard error, and the failure's exit code."""
    server.script = [answer_json(COMPLETION), *[refusal(500, "boom")] * 100]
    shown = sostenuto("bench", "--concurrency", "2", "--model", "tiny", "--retries", "0")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert shown.stderr.count("\n") == 1
