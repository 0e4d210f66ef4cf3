"""`python -m benchmarks.scores`: characters scored per second over HTTP, as a ratio to scoring by echo.

Lines of a log or of a list are scored by `/v1/score`, by completions with `echo`, and from file to file by `sostenuto
score`, in alternation. Client, gateway and model server share the cores.
"""

import http.client
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import CHARACTERS, NAME, UNITS
from benchmarks.report import Comparison, each_round, print_heading, print_table, rounds_parser, spread, write_results
from benchmarks.servers import cpu_s, fixture_servers

# Characters of a line, at least and at most -> lines of a measurement by /v1/score: some seconds.
LENGTHS = {(8, 20): 20_000, (30, 120): 8_000, (1_000, 1_000): 600}
LINES_PER_REQUEST, CONCURRENCY, ECHO_SHARE = 128, 4, 0.25


def make_lines(shortest: int, longest: int, count: int) -> list[str]:
    """Return random lines whose lengths are evenly distributed."""
    rng = random.Random(0)
    return ["".join(rng.choices(CHARACTERS, k=rng.randint(shortest, longest))) for _ in range(count)]


def _batches(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    return (lines[start : start + LINES_PER_REQUEST] for start in range(0, len(lines), LINES_PER_REQUEST))


def over_http(port: int, path: str, bodies: Sequence[dict[str, Any]]) -> None:
    encoded = [json.dumps({"model": NAME, **body}) for body in bodies]

    def send(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for body in encoded[number::CONCURRENCY]:
            connection.request("POST", path, body)
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise SystemExit(f"error: {content[:300]!r}")
        connection.close()

    with ThreadPoolExecutor(CONCURRENCY) as threads:
        list(threads.map(send, range(CONCURRENCY)))


def score(port: int, lines: Sequence[str]) -> None:
    over_http(port, "/v1/score", [{"input": batch} for batch in _batches(lines)])


def echo(port: int, lines: Sequence[str]) -> None:
    fields = {"echo": True, "logprobs": 0, "max_tokens": 0}
    over_http(port, "/v1/completions", [{"prompt": batch, **fields} for batch in _batches(lines)])


def from_file_to_file(port: int, lines: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "lines.txt"), Path(directory, "scores.csv")
        source.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "sostenuto", "score", str(source), "--csv", "-o", str(target)]
        command += ["--model", NAME, "--base-url", f"http://127.0.0.1:{port}"]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        if target.read_bytes().count(b"\n") != len(lines) + 1:
            raise SystemExit("error: rows are missing")


def speed(run: Callable[[int, Sequence[str]], None], port: int, lines: Sequence[str]) -> float:
    started = time.perf_counter()
    run(port, lines)
    return sum(map(len, lines)) / (time.perf_counter() - started)


def main() -> None:
    parser = rounds_parser("benchmarks.scores", __doc__)
    parser.add_argument("--units", type=int, default=UNITS, help=f"units of the LSTM (default: {UNITS})")
    parser.add_argument("--precision", default="bfloat16", help="precision of the products (default: bfloat16)")
    options = parser.parse_args()
    started, ways = time.time(), {"/v1/score": score, "sostenuto score": from_file_to_file}
    results, costs = dict[tuple[str, str], Comparison](), dict[str, list[tuple[float, float]]]()
    with fixture_servers(options.units) as servers:
        backend, gateway = servers.start(SOSTENUTO_PRECISION=options.precision)
        for _ in each_round(options.rounds):
            for (shortest, longest), count in LENGTHS.items():
                name, lines = f"{shortest} to {longest}", make_lines(shortest, longest, count)
                few = lines[: round(count * ECHO_SHARE)]
                score(gateway.port, few)
                baseline = speed(echo, gateway.port, few)
                for way, run in ways.items():
                    before = [cpu_s(backend.process.pid), sum(map(cpu_s, gateway.workers))]
                    ours = speed(run, gateway.port, lines)
                    after = [cpu_s(backend.process.pid), sum(map(cpu_s, gateway.workers))]
                    results.setdefault((name, way), Comparison(name)).add(ours, baseline)
                    used = [1e6 * (b - a) / sum(map(len, lines)) for a, b in zip(before, after, strict=True)]
                    costs.setdefault(f"{name}, {way}", []).append((used[0], used[1]))
    print_heading(
        f"LSTM of {options.units} units in {options.precision}, {LINES_PER_REQUEST} lines per request", options.rounds
    )
    rows = [
        [name, way, spread(each.ours, ",.0f"), spread(each.baseline, ",.0f"), each.ratio(),
         *(spread(column) for column in zip(*costs[f"{name}, {way}"], strict=True))]
        for (name, way), each in results.items()
    ]  # fmt: skip
    columns = (
        "characters per line",
        "way",
        "characters/s",
        "by echo",
        "ratio",
        "CPU µs per character: model server",
        "gateway",
    )
    print_table(columns, rows)
    write_results("scores-", started, results={" ".join(key): each for key, each in results.items()}, costs=costs)


if __name__ == "__main__":
    main()
