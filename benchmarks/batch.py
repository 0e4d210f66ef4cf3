"""`python -m benchmarks.batch`: lines a second of `service.batch`, over what people write instead with OpenAI's client.

Each contestant is a process that answers the same file, from its start to its end; they run in turn, on the cores that
gateway and model server compute on.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.__main__ import BODY, child, machine, spread, start_gateway, start_model_server, wait_for, write_results

OURS, THREADS, TASKS = "service.batch", "ThreadPoolExecutor over OpenAI", "AsyncOpenAI with a semaphore"
# Tokens of each text, and lines of the file: some seconds' worth.
WORKS = {1: 4000, 200: 1000}
CONCURRENCY = 64
CONCURRENCIES = (16, 32, 128)


@dataclass
class Figures:
    """Lines a second, one entry a round."""

    ours: list[float] = field(default_factory=list)
    rival: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours over the rival's, round by round."""
        return [ours / rival for ours, rival in zip(self.ours, self.rival, strict=True)]


def write_requests(path: Path, num_lines: int, max_tokens: int) -> None:
    """Write a file whose requests differ by their seeds."""
    with path.open("w") as file:
        for number in range(num_lines):
            body = {**BODY, "max_tokens": max_tokens, "seed": number}
            line = {"custom_id": f"{number}", "method": "POST", "url": "/v1/completions", "body": body}
            file.write(json.dumps(line) + "\n")


def lines_per_s(name: str, source: Path, port: int, concurrency: int) -> float:
    """Have a contestant answer the whole file, in a process of its own."""
    target, url = source.with_suffix(".out"), f"http://127.0.0.1:{port}"
    commands = {
        OURS: ["service.batch", str(source), str(target), "--base-url", url, "--concurrency", str(concurrency)],
        THREADS: ["benchmarks.rivals", "threads", str(source), str(target), str(concurrency)],
        TASKS: ["benchmarks.rivals", "async", str(source), str(target), str(concurrency)],
    }
    environment = {**os.environ, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none"}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", *commands[name]], env=environment, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    num_lines = target.read_bytes().count(b"\n")
    if num_lines != source.read_bytes().count(b"\n"):
        raise SystemExit(f"error: {name} wrote {num_lines} lines")
    target.unlink()
    return num_lines / seconds


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
                ours = lines_per_s(OURS, source, port, CONCURRENCY)
                others = {name: lines_per_s(name, source, port, CONCURRENCY) for name in (THREADS, TASKS)}
                others |= {f"{at_once} at once": lines_per_s(OURS, source, port, at_once) for at_once in CONCURRENCIES}
                for name, rival in others.items():
                    figures = found.setdefault((max_tokens, name), Figures())
                    figures.ours.append(ours)
                    figures.rival.append(rival)
    return found


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    rounds = parser.parse_args().rounds
    started = time.time()
    found = measure(rounds)
    print(f"\n{machine()}, model_server as the model server; {CONCURRENCY} at once; medians of {rounds} rounds\n")
    print("| tokens a text | lines/s of service.batch | compared with | its lines/s | ratio |\n|---|---|---|---|---|")
    for (max_tokens, name), figures in found.items():
        columns = spread(figures.ours, ",.0f"), name, spread(figures.rival, ",.0f"), spread(figures.ratios)
        print(f"| {max_tokens} | {' | '.join(columns)} |")
    write_results("batch-", started, figures={str(key): asdict(figures) for key, figures in found.items()})


if __name__ == "__main__":
    main()
