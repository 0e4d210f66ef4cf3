"""`python -m benchmarks.batch`: throughput of `sostenuto batch`, as a ratio to typical scripts with OpenAI's client.

Each competitor is a process that completes the same file of requests. The time for a file of one line, its start-up
time, is subtracted. They run in alternation, on the same cores as gateway and model server.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fixture_model import BODY
from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table, spread, write_results
from benchmarks.servers import fixture_servers

OURS, THREADS, TASKS = "sostenuto batch", "ThreadPoolExecutor over OpenAI", "AsyncOpenAI with a semaphore"
# max_tokens of each request -> lines of the file: some seconds each.
WORKLOADS = {1: 1500, 200: 400}
CONCURRENCY = 64
CONCURRENCIES = (16, 32, 128)


@dataclass(frozen=True)
class Speed:
    """Speed of a competitor, without its start-up time."""

    lines_per_s: float
    cpu_ms: float  # of its process per line, which other load on the machine affects less


def write_requests(path: Path, num_lines: int, max_tokens: int) -> None:
    with path.open("w") as file:
        for number in range(num_lines):
            body = {**BODY, "max_tokens": max_tokens, "seed": number}
            line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def speed_of(name: str, source: Path, port: int, concurrency: int) -> Speed:
    """Run a competitor on a file of one line and then on the whole file, each in its own process."""
    single_line = source.with_suffix(".one")
    with source.open() as file:
        single_line.write_text(file.readline())
    _, start_s, start_cpu_s = _run(name, single_line, port, concurrency)
    num_lines, seconds, cpu_s = _run(name, source, port, concurrency)
    speed = Speed((num_lines - 1) / (seconds - start_s), 1000 * (cpu_s - start_cpu_s) / (num_lines - 1))
    print(f"{name}, concurrency {concurrency}: {speed}, start {start_s:.2f} s", file=sys.stderr, flush=True)
    return speed


def _run(name: str, source: Path, port: int, concurrency: int) -> tuple[int, float, float]:
    """Return the number of lines, the wall time and the CPU time in seconds."""
    target, url = source.with_suffix(".out"), f"http://127.0.0.1:{port}"
    commands = {
        OURS: ["sostenuto", "batch", str(source), str(target), "--base-url", url, "--concurrency", str(concurrency)],
        THREADS: ["benchmarks.competitors.batch_scripts", "threads", str(source), str(target), str(concurrency)],
        TASKS: ["benchmarks.competitors.batch_scripts", "async", str(source), str(target), str(concurrency)],
    }
    environment = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
    started, before = time.perf_counter(), _children_cpu_s()
    subprocess.run([sys.executable, "-m", *commands[name]], env=environment, check=True, stderr=subprocess.DEVNULL)
    seconds, cpu_s = time.perf_counter() - started, _children_cpu_s() - before
    num_lines = target.read_bytes().count(b"\n")
    if num_lines != source.read_bytes().count(b"\n"):
        raise SystemExit(f"error: {name} wrote {num_lines} lines")
    target.unlink()
    return num_lines, seconds, cpu_s


def _children_cpu_s() -> float:
    """Return the CPU time of ended child processes in seconds; excludes the servers, which are still running."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> dict[tuple[int, str], tuple[Comparison, Comparison]]:
    """Measure every workload with every competitor, and ours at other concurrencies, in alternation.

    Returns:
        For max_tokens and competitor, two comparisons: lines per second, and CPU time per line in ms.
    """
    results: dict[tuple[int, str], tuple[Comparison, Comparison]] = {}
    with fixture_servers() as servers:
        _, gateway = servers.start()
        port = gateway.port
        source = Path(servers.stack.enter_context(tempfile.TemporaryDirectory()), "in.jsonl")
        for _ in each_round(rounds):
            for max_tokens, num_lines in WORKLOADS.items():
                write_requests(source, num_lines, max_tokens)
                # Warm-up: otherwise the first competitor would measure cold servers (observed: a third slower).
                _run(OURS, source, port, CONCURRENCY)
                ours = speed_of(OURS, source, port, CONCURRENCY)
                others = {name: speed_of(name, source, port, CONCURRENCY) for name in (THREADS, TASKS)}
                others |= {
                    f"concurrency {concurrency}": speed_of(OURS, source, port, concurrency)
                    for concurrency in CONCURRENCIES
                }
                for name, other in others.items():
                    lines, cpu = results.setdefault((max_tokens, name), (Comparison("lines/s"), Comparison("CPU ms")))
                    lines.add(ours.lines_per_s, other.lines_per_s)
                    cpu.add(ours.cpu_ms, other.cpu_ms)
    return results


def main() -> None:
    rounds = parse_rounds("benchmarks.batch", __doc__)
    started = time.time()
    results = measure(rounds)
    print_heading(f"model_server, concurrency {CONCURRENCY}", rounds)
    speeds = ("lines/s of sostenuto batch", "lines/s of the baseline", "ratio")
    rows = [
        [max_tokens, name, spread(lines.ours, ",.0f"), spread(lines.baseline, ",.0f"), lines.ratio(),
         spread(cpu.ours), spread(cpu.baseline)]
        for (max_tokens, name), (lines, cpu) in results.items()
    ]  # fmt: skip
    print_table(("max_tokens", "baseline", *speeds, "CPU ms per line: ours", "baseline"), rows)
    write_results("batch-", started, results={str(key): pair for key, pair in results.items()})


if __name__ == "__main__":
    main()
