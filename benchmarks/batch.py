"""`python -m benchmarks.batch`: lines a second of `service.batch`, over what people write instead with OpenAI's client.

Each contestant is a process that answers the same file; what it takes for a file of one line, which is its start, is
taken off. They run in turn, on the cores that gateway and model server compute on.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.__main__ import BODY, child, machine, spread, start_gateway, start_model_server, wait_for, write_results

OURS, THREADS, TASKS = "service.batch", "ThreadPoolExecutor over OpenAI", "AsyncOpenAI with a semaphore"
# Tokens of each text, and lines of the file: some seconds' worth.
WORKS = {1: 1500, 200: 400}
CONCURRENCY = 64
CONCURRENCIES = (16, 32, 128)


@dataclass(frozen=True)
class Speed:
    """What a contestant did, its start taken off.

    Attributes:
        lines_per_s: Of what other work on the machine left it.
        cpu_ms: Processor time of its process for each line, which other work changes less.
    """

    lines_per_s: float
    cpu_ms: float


@dataclass
class Figures:
    """Ours and another's, one entry a round."""

    ours: list[Speed] = field(default_factory=list)
    other: list[Speed] = field(default_factory=list)

    def row(self) -> str:
        """Return columns of the table."""
        ours, other = ([speed.lines_per_s for speed in speeds] for speeds in (self.ours, self.other))
        ours_ms, other_ms = ([speed.cpu_ms for speed in speeds] for speeds in (self.ours, self.other))
        ratios = [mine / its for mine, its in zip(ours, other, strict=True)]
        columns = spread(ours, ",.0f"), spread(other, ",.0f"), spread(ratios), spread(ours_ms), spread(other_ms)
        return " | ".join(columns)


def write_requests(path: Path, num_lines: int, max_tokens: int) -> None:
    """Write a file whose requests differ by their seeds."""
    with path.open("w") as file:
        for number in range(num_lines):
            body = {**BODY, "max_tokens": max_tokens, "seed": number}
            line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def speed_of(name: str, source: Path, port: int, concurrency: int) -> Speed:
    """Have a contestant answer a file of one line and then the whole file, each in a process of its own."""
    one = source.with_suffix(".one")
    with source.open() as file:
        one.write_text(file.readline())
    _, start_s, start_cpu_s = _answer(name, one, port, concurrency)
    num_lines, seconds, cpu_s = _answer(name, source, port, concurrency)
    speed = Speed((num_lines - 1) / (seconds - start_s), 1000 * (cpu_s - start_cpu_s) / (num_lines - 1))
    print(f"{name}, {concurrency} at once: {speed}, start {start_s:.2f} s", file=sys.stderr, flush=True)
    return speed


def _answer(name: str, source: Path, port: int, concurrency: int) -> tuple[int, float, float]:
    """Return lines, seconds and seconds of the processor."""
    target, url = source.with_suffix(".out"), f"http://127.0.0.1:{port}"
    commands = {
        OURS: ["service.batch", str(source), str(target), "--base-url", url, "--concurrency", str(concurrency)],
        THREADS: ["benchmarks.competitors", "threads", str(source), str(target), str(concurrency)],
        TASKS: ["benchmarks.competitors", "async", str(source), str(target), str(concurrency)],
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
    """Return the processor time of the children that have ended; the servers have not."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(rounds: int) -> dict[tuple[int, str], Figures]:
    """Measure every work with every rival, and ours with other numbers at once, in turn."""
    found: dict[tuple[int, str], Figures] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        models_dir, source = Path(folder, "models"), Path(folder, "in.jsonl")
        with child("benchmarks.publish", str(models_dir)) as publishing:
            publishing.communicate()
        _, backend = start_model_server(models_dir, stack)
        gateway, port = start_gateway(models_dir, stack, [backend])
        wait_for(port, "/readyz", gateway)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
            for max_tokens, num_lines in WORKS.items():
                write_requests(source, num_lines, max_tokens)
                # Whoever comes first would meet servers that have not computed this yet (a third slower, seen).
                _answer(OURS, source, port, CONCURRENCY)
                ours = speed_of(OURS, source, port, CONCURRENCY)
                others = {name: speed_of(name, source, port, CONCURRENCY) for name in (THREADS, TASKS)}
                others |= {f"{at_once} at once": speed_of(OURS, source, port, at_once) for at_once in CONCURRENCIES}
                for name, other in others.items():
                    figures = found.setdefault((max_tokens, name), Figures())
                    figures.ours.append(ours)
                    figures.other.append(other)
    return found


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    rounds = parser.parse_args().rounds
    started = time.time()
    found = measure(rounds)
    print(f"\n{machine()}, model_server as the model server; {CONCURRENCY} at once; medians of {rounds} rounds\n")
    print(
        "| tokens a text | compared with | lines/s of service.batch | its | ratio | processor ms a line: ours | its |"
    )
    print("|---|---|---|---|---|---|---|")
    for (max_tokens, name), figures in found.items():
        print(f"| {max_tokens} | {name} | {figures.row()} |")
    write_results("batch-", started, figures={str(key): asdict(figures) for key, figures in found.items()})


if __name__ == "__main__":
    main()
