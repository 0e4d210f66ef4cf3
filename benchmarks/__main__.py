"""`python -m benchmarks`: throughput over HTTP, as a ratio to baselines measured in alternation."""

import argparse
import contextlib
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import EMBEDDING, NAME, NEW_TOKENS, PROMPT, PROMPT_LENGTH, TEMPERATURE, UNITS
from benchmarks.load import Load, run_load

RESULTS = Path(__file__).parent / "results"
BODY = {"model": NAME, "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": TEMPERATURE}
PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
# Requests per measurement: a few seconds.
NUM_REQUESTS = {1: 24, 8: 96, 32: 480, 64: 1280}
MIN_BATCH_SIZE = 8


@dataclass
class Comparison:
    """A throughput ratio to a baseline, measured in several rounds.

    Attributes:
        ours: Tokens per second over HTTP, one per round.
        baseline: Tokens per second of the baseline, one per round.
        aim: Target of the ratio.
        first_ms: Median time to first token in ms, one per round.
    """

    name: str
    aim: float | None
    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Ours over the baseline, per round."""
        return [ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)]

    def add(self, load: Load, baseline: float) -> None:
        """Add the results of one round."""
        self.ours.append(load.tokens_per_s)
        self.baseline.append(baseline)
        self.first_ms.append(1000 * statistics.median(load.first_s))

    def row(self) -> str:
        """Return a row of the table: medians, and the range of the ratio."""
        ours, baseline, first = (statistics.median(values) for values in (self.ours, self.baseline, self.first_ms))
        aim = "" if self.aim is None else f"≥ {self.aim:g}"
        return f"| {self.name} | {ours:,.0f} | {baseline:,.0f} | {spread(self.ratios)} | {aim} | {first:.0f} |"


@contextlib.contextmanager
def child(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run a Python module in a child process that is terminated at the end of the block."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def requester(process: subprocess.Popen[str]) -> Callable[..., float]:
    """Return a function that requests a measurement from a baseline's process."""

    def request(**arguments: Any) -> float:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(arguments) + "\n")
        process.stdin.flush()
        result = process.stdout.readline()
        if not result:
            raise SystemExit(f"error: the baseline {process.args} ended with {process.wait()}")
        return float(result)

    return request


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(port: int, path: str, process: subprocess.Popen[str]) -> None:
    """Wait until an endpoint returns 200, or the port is open if the path is empty."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.connect()
            if not path:
                return
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.01)
    raise SystemExit(f"error: port {port} does not answer")


@dataclass
class Worker:
    """Costs of a gateway worker.

    Attributes:
        start_s: Seconds from the start of the program to the first response of /healthz.
        resident_mb: Resident memory after the load.
    """

    start_s: float
    resident_mb: float = 0.0


@contextlib.contextmanager
def service(
    models_dir: Path, stack: contextlib.ExitStack, *, portable: bool = False, **settings: str
) -> Iterator[tuple[int, str, Worker]]:
    """Start a model server and a gateway; yield the gateway's port, the model server's address and the worker.

    The prefix cache is off unless `settings` enable it: a load repeats one prompt, and the baselines prefill it too.
    """
    _, backend = start_model_server(models_dir, stack, f"--portable={portable}")
    started = time.perf_counter()
    gateway, port = start_gateway(models_dir, stack, [backend], **settings)
    worker = Worker(time.perf_counter() - started)
    wait_for(port, "/readyz", gateway)
    yield port, f"127.0.0.1:{backend}", worker
    worker.resident_mb = max(_resident_mb(pid) for pid in children(gateway.pid))


def start_model_server(models_dir: Path, stack: contextlib.ExitStack, *flags: str) -> tuple[subprocess.Popen[str], int]:
    """Start a model server; return it and its port when it is ready."""
    port = free_port()
    command = ["model_server", f"--port={port}", f"--model_config_file={models_dir}/models.config", *flags]
    process = stack.enter_context(child(*command))
    wait_for(port, "", process)
    return process, port


def start_gateway(
    models_dir: Path, stack: contextlib.ExitStack, backends: Sequence[int], **settings: str
) -> tuple[subprocess.Popen[str], int]:
    """Start a gateway for the model servers at `backends`; return it and its port when it is alive."""
    port = free_port()
    variables = {
        "OSTINATO_PORT": str(port),
        "OSTINATO_METRICS_PORT": "0",
        "OSTINATO_BACKENDS": ",".join(f"127.0.0.1:{backend}" for backend in backends),
        "OSTINATO_MODELS_DIR": str(models_dir),
        "OSTINATO_PREFIX_CACHE_BYTES": "0",
        **settings,
    }
    process = stack.enter_context(child("service", "serve", **variables))
    wait_for(port, "/healthz", process)
    return process, port


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def measure(rounds: int, seconds: float) -> tuple[list[Comparison], Worker]:
    """Run every comparison `rounds` times, alternating between ours and the baseline."""
    in_process = {
        concurrency: Comparison(
            f"(a) {concurrency} concurrent, over `decode` alone in one process at "
            f"{max(MIN_BATCH_SIZE, concurrency)} rows",
            aim,
        )
        for concurrency, aim in ((1, None), (8, None), (64, 0.7))
    }
    as_served = Comparison("(a) 64 concurrent, over the same with one thread, as the model server has", 0.7)
    usual = Comparison("(b) 32 concurrent, over one `serving_default` call per token, one after another", 20)
    adjusted = {
        name: (Comparison(f"(d) 64 concurrent with {name}, over 64 without", 0.6), fields)
        for name, fields in (
            ("penalties", PENALTIES),
            ("logprobs 5", {"logprobs": 5}),
            ("both", {**PENALTIES, "logprobs": 5}),
        )
    }
    torch = Comparison("(c) 1 stream, over the same request by PyTorch's nn.LSTM", 1.0)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with child("benchmarks.publish", folder) as publishing:
            version = Path((publishing.communicate()[0] or "").strip())
        baseline = lambda *arguments: requester(stack.enter_context(child("benchmarks.baselines", *arguments)))  # noqa: E731
        threads = ("1", "2")
        decodes = [baseline("decode", f"--version={version}", "--threads", count) for count in threads]
        torches = [baseline("torch", "--threads", count) for count in threads]
        with service(Path(folder), stack) as (port, address, worker):
            ask_whole_text = baseline("whole-text", f"--version={version}", f"--address={address}")
            load = lambda concurrency, fields={}: run_load(  # noqa: E731
                port, {**BODY, **fields}, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency]
            )
            load(8)
            for number in range(rounds):
                print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
                for concurrency, comparison in in_process.items():
                    rows = max(MIN_BATCH_SIZE, concurrency)
                    ours, baselines = load(concurrency), [ask(rows=rows, seconds=seconds) for ask in decodes]
                    # The better of one and two threads, as a user would choose.
                    comparison.add(ours, max(baselines))
                    if concurrency == 64:
                        as_served.add(ours, baselines[0])
                for comparison, fields in adjusted.values():
                    plain = load(64)
                    comparison.add(load(64, fields), plain.tokens_per_s)
                usual.add(load(32), ask_whole_text())
                torch.add(load(1), max(ask(seconds=seconds) for ask in torches))
    return [*in_process.values(), as_served, usual, torch, *(comparison for comparison, _ in adjusted.values())], worker


def machine() -> str:
    """Describe the machine: CPU model, cores and Python version."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Format the median, and the range in brackets."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def write_results(name: str, started: float, **results: Any) -> None:
    """Write results as JSON, with the machine, and print the path.

    Args:
        name: Prefix of the file's name.
        started: Start of the measurement, Unix time in seconds.
        results: JSON-serializable values.
    """
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}{time.strftime('%Y-%m-%dT%H%M%S', time.localtime(started))}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    print(f"written to {path}; {time.time() - started:.0f} s")


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    options = parser.parse_args()
    rounds, seconds = (3, 1.0) if options.quick else (9, 2.0)
    started = time.time()
    comparisons, worker = measure(rounds, seconds)
    print(f"\n{machine()}, model_server as the model server;")
    print(f"LSTM of {UNITS} units, embedding {EMBEDDING}; {PROMPT_LENGTH} characters read and")
    print(f"{NEW_TOKENS} tokens written a request; medians of {rounds} rounds, the ratio's range in brackets\n")
    print("| | tokens/s | baseline tokens/s | ratio | aim | first text, ms |\n|---|---|---|---|---|---|")
    for comparison in comparisons:
        print(comparison.row())
    print(f"\ngateway worker: {worker.resident_mb:.0f} MB after the load, {worker.start_s:.2f} s to its first answer")
    write_results("", started, worker=asdict(worker), figures=[asdict(comparison) for comparison in comparisons])


if __name__ == "__main__":
    main()
