"""`python -m benchmarks`: throughput over HTTP, as a ratio to baselines measured in alternation."""

import argparse
import functools
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.fixture_model import EMBEDDING, NAME, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_fixture_load, with_cpu_times
from benchmarks.measurement import start_measurement
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import Gateway, ModelServer, fixture_servers

PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
OPTIONS = {"penalties": PENALTIES, "logprobs 5": {"logprobs": 5}, "both": {**PENALTIES, "logprobs": 5}}
MIN_BATCH_SIZE = 8
# Names an executable of TensorFlow Serving, to measure it beside model_server.
TENSORFLOW_MODEL_SERVER = "TENSORFLOW_MODEL_SERVER"


RunLoad = Callable[..., tuple[Load, dict[str, float]]]


def load_runner(gateway: Gateway, backend: ModelServer) -> RunLoad:
    """Return a function that runs a load, by concurrency and further fields of the requests."""
    pids = {"gateway": gateway.workers, "model server": [backend.process.pid]}

    def run(concurrency: int, **fields: Any) -> tuple[Load, dict[str, float]]:
        return with_cpu_times(pids, lambda: run_fixture_load(gateway.port, concurrency, **fields))

    return run


@dataclass
class ServingComparison(Comparison):
    """Tokens per second over HTTP and of a baseline.

    Attributes:
        first_p50_ms: Median time to first token in ms, one per round.
        first_p99_ms: Its 99th percentile.
        cpu_us: CPU time per token in microseconds of gateway, model server and load generator, likewise.
    """

    first_p50_ms: list[float] = field(default_factory=list)
    first_p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)

    def add_load(self, measured: tuple[Load, dict[str, float]], baseline: float) -> None:
        """Add the results of one round."""
        load, cpu_us = measured
        self.add(load.tokens_per_s, baseline)
        self.first_p50_ms.append(load.first_ms(0.5))
        self.first_p99_ms.append(load.first_ms(0.99))
        self.cpu_us.append(cpu_us)

    def cpu(self) -> str:
        """Format the medians of the CPU times."""
        return " / ".join(f"{statistics.median(each[part] for each in self.cpu_us):.1f}" for part in self.cpu_us[0])


class ServingBenchmark:
    """Every comparison, in the order of the table."""

    def __init__(self, seconds: float) -> None:
        """Set for how long each baseline is measured in each round."""
        self._seconds = seconds
        name = "(a) {} concurrent, over the same calls in one process at batch size {}"
        self._in_process = {
            concurrency: ServingComparison(name.format(concurrency, max(MIN_BATCH_SIZE, concurrency)), aim)
            for concurrency, aim in ((1, None), (8, 0.7), (64, 0.85))
        }
        name = "(a) 64 concurrent, over the same with one thread, as the model server has"
        self._one_thread = ServingComparison(name, 0.85)
        self._torch = ServingComparison("(b) 1 concurrent, over the same request by PyTorch's nn.LSTM", 1)
        self._options = {
            name: ServingComparison(f"(c) 64 concurrent with {name}, over 64 without", 0.6) for name in OPTIONS
        }
        self._tensorflow_serving = {
            concurrency: ServingComparison(f"(d) {concurrency} concurrent on TensorFlow Serving, over model_server")
            for concurrency in ((1, 8, 64) if TENSORFLOW_MODEL_SERVER in os.environ else ())
        }

    @property
    def comparisons(self) -> list[ServingComparison]:
        """All comparisons."""
        baselines = self._one_thread, self._torch
        options = self._options.values(), self._tensorflow_serving.values()
        return [*self._in_process.values(), *baselines, *itertools.chain(*options)]

    def run(self, rounds: int) -> dict[str, float]:
        """Run every comparison in each round; return start time and memory of the gateway's worker."""
        with fixture_servers() as servers:
            start = functools.partial(start_measurement, servers.stack, "benchmarks.baselines")
            version = f"--version={servers.models_dir / NAME / '1'}"
            models = [start("model", version, "--threads", count) for count in ("1", "2")]
            torches = [start("torch", "--threads", count) for count in ("1", "2")]
            backend, gateway = servers.start()
            load = load_runner(gateway, backend)
            load(8)
            other = None
            if self._tensorflow_serving:
                backend = servers.start_tensorflow_serving(os.environ[TENSORFLOW_MODEL_SERVER])
                other = load_runner(servers.start_gateway([backend]), backend)
                other(8)
            for _ in each_round(rounds):
                self._compare_in_process(load, models)
                for name, comparison in self._options.items():
                    plain, _ = load(64)
                    comparison.add_load(load(64, **OPTIONS[name]), plain.tokens_per_s)
                for concurrency, comparison in self._tensorflow_serving.items():
                    plain, _ = load(concurrency)
                    comparison.add_load(other(concurrency), plain.tokens_per_s)
                self._torch.add_load(load(1), max(measure(seconds=self._seconds) for measure in torches))
            return {"start_s": gateway.start_s, "resident_mb": gateway.resident_mb()}

    def _compare_in_process(self, load: RunLoad, models: Sequence[Callable[..., float]]) -> None:
        for concurrency, comparison in self._in_process.items():
            ours, batch_size = load(concurrency), max(MIN_BATCH_SIZE, concurrency)
            baselines = [measure(batch_size=batch_size, seconds=self._seconds) for measure in models]
            # The better of one and two threads, as a user would choose.
            comparison.add_load(ours, max(baselines))
            if concurrency == 64:
                self._one_thread.add_load(ours, baselines[0])


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    rounds, seconds = (3, 1.0) if parser.parse_args().quick else (9, 2.0)
    started, benchmark = time.time(), ServingBenchmark(seconds)
    worker = benchmark.run(rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"model_server, LSTM of {UNITS} units, embedding {EMBEDDING}, {setup}", rounds)
    rows = [
        [
            *each.row(),
            "" if each.aim is None else f"≥ {each.aim:g}",
            f"{statistics.median(each.first_p50_ms):.0f}",
            f"{statistics.median(each.first_p99_ms):.0f}",
            each.cpu(),
        ]
        for each in benchmark.comparisons
    ]
    cpu = "CPU µs per token: gateway / model server / load generator"
    first = ("time to first token, ms: p50", "p99")
    print_table(("", "tokens/s", "baseline tokens/s", "ratio", "aim", *first, cpu), rows)
    print(f"\ngateway worker: {worker['resident_mb']:.0f} MB after the load, {worker['start_s']:.2f} s to /healthz")
    write_results("", started, worker=worker, results=[asdict(each) for each in benchmark.comparisons])


if __name__ == "__main__":
    main()
