"""`python -m benchmarks.structured`: structured outputs, by speed, correctness and what a regex bomb costs others.

- speed: tokens/s with a pattern over tokens/s without, and for llama.cpp, if `make competitors` has installed it;
- matches: completions for 30 regular expressions and 10 JSON Schemas, checked by `re` and `jsonschema`; compile times;
- bomb: gaps between the chunks of 8 streams, while another client sends regular expressions that compile too long.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import BODY, NAME, NUM_REQUESTS, UNITS
from benchmarks.load import run_load
from benchmarks.patterns import LOG_LINES, LOG_LINES_GBNF, REGEXES, SCHEMAS
from benchmarks.report import Comparison, each_round, percentile, print_heading, print_table, spread, write_results
from benchmarks.servers import Servers, fixture_servers
from benchmarks.systems import VENV, Workload, start_llama, write_model

CONCURRENCIES = (1, 8, 64)
PARTS = ("speed", "matches", "bomb")
# The language model of llama.cpp is this much slower.
LLAMA_SHARE = 16
NUM_STREAMS, STREAM_TOKENS, STREAM_S = 8, 20_000, 4.0
MATCH_TOKENS, CHOICES = 160, 100
BOMB = "(a{{1,1000}}){{1,{}}}"


def main() -> None:
    """Measure the chosen parts, print their tables and write the results as JSON."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.structured", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument(
        "--completions", type=int, default=100_000, help="number of completions to check (default: 100,000)"
    )
    parser.add_argument("--units", type=int, default=UNITS, help=f"width of the LSTM (default: {UNITS})")
    options = parser.parse_args()
    started, results = time.time(), {}
    print_heading(f"LSTM of {options.units} units, 95 characters", options.rounds)
    with fixture_servers(options.units) as servers:
        _, gateway = servers.start()
        if "speed" in options.part:
            results["speed"] = _speed(servers, gateway.port, options.rounds)
        if "bomb" in options.part:
            results["bomb"] = _bomb(gateway.port, options.rounds)
        if "matches" in options.part:
            results["matches"] = _matches(gateway.port, options.completions)
    write_results("structured-", started, results=results)


def _speed(servers: Servers, port: int, rounds: int) -> list[dict[str, Any]]:
    """Compare tokens/s with the pattern of log lines and without."""
    pattern = {"structured_outputs": {"regex": LOG_LINES}}
    comparisons = {number: Comparison(f"Sostenuto, {number} streams", 0.85) for number in CONCURRENCIES}
    with _llama(servers) as llama_port:
        llama = {number: Comparison(f"llama.cpp, {number} streams") for number in CONCURRENCIES if llama_port}
        for _ in each_round(rounds):
            for number, comparison in comparisons.items():
                loads = [
                    run_load(port, {**BODY, **fields}, concurrency=number, num_requests=NUM_REQUESTS[number])
                    for fields in (pattern, {})
                ]
                comparison.add(*(load.tokens_per_s for load in loads))
            for number, comparison in llama.items():
                size = max(number, NUM_REQUESTS[number] // LLAMA_SHARE)
                loads = [
                    run_load(
                        llama_port or 0,
                        {**Workload().llama_body, **fields},
                        concurrency=number,
                        num_requests=size,
                        keep_alive=False,
                    )
                    for fields in ({"grammar": LOG_LINES_GBNF}, {})
                ]
                comparison.add(*(load.tokens_per_s for load in loads))
    rows = [*comparisons.values(), *llama.values()]
    print_table(("tokens/s", "with the pattern", "without", "ratio"), [row.row() for row in rows])
    return [asdict(row) for row in rows]


@contextlib.contextmanager
def _llama(servers: Servers) -> Iterator[int | None]:
    """Start llama.cpp's server, if it is installed, and yield its port."""
    python = VENV / "bin/python"
    if not python.exists():
        yield None
        return
    with tempfile.TemporaryDirectory() as directory:
        model = write_model(python, Path(directory), "F32", Workload())
        yield start_llama(servers.stack, python, "F32", model, 2, Workload()).port


def _bomb(port: int, rounds: int) -> dict[str, Any]:
    """Compare the gaps between chunks of streams beside regex bombs with those without."""
    numbers, gaps = itertools.count(1000), Comparison("p99 gap between chunks, ms", 1.3)
    errors: set[str] = set()
    for _ in each_round(rounds):
        gaps.add(*(_p99_gap_ms(port, numbers if is_bombed else None, errors) for is_bombed in (True, False)))
    print_table(("8 streams", "beside regex bombs", "alone", "ratio"), [gaps.row(".1f")])
    print(f"\nthe bombs' errors: {'; '.join(sorted(errors))}\n")
    return asdict(gaps)


def _p99_gap_ms(port: int, bombs: Iterator[int] | None, errors: set[str]) -> float:
    """Return the 99th percentile of the gaps between chunks of all streams, in milliseconds."""
    ended = threading.Event()
    with ThreadPoolExecutor(NUM_STREAMS + 1) as pool:
        sender = pool.submit(_send_bombs, port, bombs, ended, errors) if bombs is not None else None
        try:
            gaps = list(itertools.chain.from_iterable(pool.map(partial(_read_stream, port), range(NUM_STREAMS))))
        finally:
            ended.set()
        if sender is not None:
            sender.result()
    return 1000 * percentile(gaps, 0.99)


def _read_stream(port: int, seed: int) -> list[float]:
    """Read a stream for a time, and return the gaps between its chunks in seconds."""
    gaps = []
    body = {**BODY, "max_tokens": STREAM_TOKENS, "seed": seed, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise SystemExit(f"error: {response.read()!r}")
    began = last = time.perf_counter()
    while time.perf_counter() - began < STREAM_S and (line := response.readline()):
        if line.startswith(b'data: {"error"'):
            raise SystemExit(f"error: {line!r}")
        if line.startswith(b"data: "):
            now = time.perf_counter()
            gaps.append(now - last)
            last = now
    connection.close()
    return gaps


def _send_bombs(port: int, numbers: Iterator[int], ended: threading.Event, errors: set[str]) -> None:
    while not ended.is_set():
        status, response = _post(port, {"structured_outputs": {"regex": BOMB.format(next(numbers))}})
        errors.add(f"{status} {response['error']['message']}")


def _matches(port: int, num_completions: int) -> dict[str, Any]:
    """Generate completions for every pattern, and check each; print compile times."""
    import jsonschema  # noqa: PLC0415 - only this part needs it

    checker = jsonschema.FormatChecker(formats=())
    checker.checks("date", raises=ValueError)(lambda text: bool(date.fromisoformat(text)))
    kinds: list[tuple[dict[str, Any], Any]] = [
        *(({"structured_outputs": {"regex": regex}}, re.compile(regex).fullmatch) for regex in REGEXES),
        *(
            (
                {"response_format": {"type": "json_schema", "json_schema": {"name": "benchmark", "schema": schema}}},
                partial(_is_valid, jsonschema.Draft202012Validator(schema, format_checker=checker)),
            )
            for schema in SCHEMAS
        ),
    ]
    first_s, again_s, num_matching, num_checked, texts = [], [], 0, 0, set()
    began = time.perf_counter()
    _complete(port, 0, 1, {"guided_regex": "a"})
    print(f"the first pattern, which starts the compiler's process, took {1000 * (time.perf_counter() - began):.0f} ms")
    for fields, is_match in kinds:
        for seconds in (first_s, again_s):
            # A completion of the same request, with a compiled pattern and without.
            began = time.perf_counter()
            _complete(port, 0, 1, fields)
            seconds.append(time.perf_counter() - began)
        for seed in range(-(-num_completions // (len(kinds) * CHOICES))):
            for text in _complete(port, seed, CHOICES, fields):
                num_checked += 1
                num_matching += bool(is_match(text))
                texts.add(text)
    compile_ms = [1000 * max(0.0, first - again) for first, again in zip(first_s, again_s, strict=True)]
    p50, p99 = percentile(compile_ms, 0.5), percentile(compile_ms, 0.99)
    print(f"{num_matching:,} of {num_checked:,} completions match ({len(texts):,} distinct), {len(kinds)} patterns")
    print(f"time to compile, ms: {spread(compile_ms, '.1f')}, p50 {p50:.1f}, p99 {p99:.1f}")
    return {"matching": num_matching, "checked": num_checked, "compile_ms": compile_ms}


def _is_valid(validator: Any, text: str) -> bool:
    """Return whether a text is JSON that a schema accepts."""
    try:
        return bool(validator.is_valid(json.loads(text)))
    except ValueError:
        return False


def _complete(port: int, seed: int, choices: int, fields: dict[str, Any]) -> list[str]:
    body = {"prompt": "", "max_tokens": MATCH_TOKENS, "seed": seed, "n": choices, "timeout_s": 300, **fields}
    status, response = _post(port, body)
    if status != 200:
        raise SystemExit(f"error: {fields}: {response}")
    return [choice["text"] for choice in response["choices"]]


def _post(port: int, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    content = json.dumps({"model": NAME, **body})
    connection.request("POST", "/v1/completions", content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer: dict[str, Any] = json.loads(response.read())
    connection.close()
    return response.status, answer


if __name__ == "__main__":
    main()
