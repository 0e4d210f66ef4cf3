"""`python -m benchmarks.structured`: structured outputs, by speed and correctness.

- speed: tokens/s with a pattern over tokens/s without, and for llama.cpp, if `make competitors` has installed it;
- matches: completions for 30 regular expressions and 10 JSON Schemas, checked by `re` and `jsonschema`; compile times.
"""

import argparse
import contextlib
import json
import re
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.competitors.systems import VENV, Workload, start_llama, write_model
from benchmarks.fixture_model import NAME, NUM_REQUESTS, UNITS
from benchmarks.load import Load, compare_throughput, run_fixture_load, run_load
from benchmarks.patterns import LOG_LINES, LOG_LINES_GBNF, REGEXES, SCHEMAS
from benchmarks.report import percentile, print_heading, print_table, spread, write_results
from benchmarks.servers import Servers, fixture_servers

# The language model of llama.cpp is this much slower.
LLAMA_SHARE = 16
MATCH_TOKENS, CHOICES = 160, 100


def main() -> None:
    """Measure the chosen parts, print their tables and write the results as JSON."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.structured", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    parser.add_argument(
        "--completions", type=int, default=100_000, help="number of completions to check (default: 100,000)"
    )
    parser.add_argument("--units", type=int, default=UNITS, help=f"width of the LSTM (default: {UNITS})")
    options = parser.parse_args()
    started = time.time()
    print_heading(f"LSTM of {options.units} units, 95 characters", options.rounds)
    with fixture_servers(options.units) as servers:
        _, gateway = servers.start()
        speed = _speed(servers, gateway.port, options.rounds)
        matches = _matches(gateway.port, options.completions)
    write_results("structured-", started, results={"speed": speed, "matches": matches})


def _speed(servers: Servers, port: int, rounds: int) -> list[dict[str, Any]]:
    """Compare tokens/s with the pattern of log lines and without."""
    constrained = partial(run_fixture_load, port, structured_outputs={"regex": LOG_LINES})
    comparisons = compare_throughput("Sostenuto", constrained, partial(run_fixture_load, port), rounds, 0.85)
    with _llama(servers) as llama_port:
        if llama_port is not None:

            def run(concurrency: int, **fields: str) -> Load:
                num_requests = max(concurrency, NUM_REQUESTS[concurrency] // LLAMA_SHARE)
                body = {**Workload().llama_body, **fields}
                return run_load(llama_port, body, concurrency=concurrency, num_requests=num_requests, keep_alive=False)

            comparisons += compare_throughput("llama.cpp", partial(run, grammar=LOG_LINES_GBNF), run, rounds)
    print_table(("tokens/s", "with the pattern", "without", "ratio"), [row.row() for row in comparisons])
    return [asdict(row) for row in comparisons]


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
    first_s, again_s, texts = list[float](), list[float](), set[str]()
    num_matching = num_checked = 0
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
    body = {"model": NAME, "prompt": "", "max_tokens": MATCH_TOKENS, "seed": seed, "n": choices, "timeout_s": 300}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", json.dumps({**body, **fields}).encode())
    with urllib.request.urlopen(request) as response:
        return [choice["text"] for choice in json.load(response)["choices"]]


if __name__ == "__main__":
    main()
