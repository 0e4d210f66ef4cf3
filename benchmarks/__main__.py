"""`python -m benchmarks`: throughput over HTTP, as a ratio to baselines measured in alternation."""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.fixture_model import EMBEDDING, NAME, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_fixture_load, with_cpu_times
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import Gateway, ModelServer, Servers, fixture_servers, start_measurement

PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
OPTIONS: dict[str, dict[str, Any]] = {
    "penalties": PENALTIES,
    "logprobs 5": {"logprobs": 5},
    "both": {**PENALTIES, "logprobs": 5},
}
MIN_BATCH_SIZE = 8
# Names an executable of TensorFlow Serving, to measure it beside model_server.
TENSORFLOW_MODEL_SERVER = "TENSORFLOW_MODEL_SERVER"
# A load with the CPU times of its parts, and the tokens per second of its baseline.
Pair = tuple[tuple[Load, dict[str, float]], float]
Measure = Callable[[], tuple[Load, dict[str, float]]]


@dataclass
class ServingComparison(Comparison):
    """Tokens per second over HTTP and of a baseline; the time to first token, and the CPU time per token by part."""

    first_p50_ms: list[float] = field(default_factory=list)
    first_p99_ms: list[float] = field(default_factory=list)
    cpu_us: list[dict[str, float]] = field(default_factory=list)

    def add_load(self, measured: tuple[Load, dict[str, float]], baseline: float) -> None:
        load, cpu_us = measured
        self.add(load.tokens_per_s, baseline)
        self.first_p50_ms.append(load.first_ms(0.5))
        self.first_p99_ms.append(load.first_ms(0.99))
        self.cpu_us.append(cpu_us)

    def cpu(self) -> str:
        return " / ".join(f"{statistics.median(each[part] for each in self.cpu_us):.1f}" for part in self.cpu_us[0])


def load_runner(gateway: Gateway, backend: ModelServer) -> Callable[..., tuple[Load, dict[str, float]]]:
    """Return a function that runs a load, by concurrency and further fields of the requests."""
    pids = {"gateway": gateway.workers, "model server": [backend.process.pid]}
    return lambda concurrency, **fields: with_cpu_times(
        pids, lambda: run_fixture_load(gateway.port, concurrency, **fields)
    )


def start_comparisons(
    servers: Servers, backend: ModelServer, gateway: Gateway, seconds: float
) -> Iterator[tuple[ServingComparison, Callable[[], Pair]]]:
    """Start the baselines; yield each comparison in the order of the table, and how a round of it is measured.

    A baseline is measured for some `seconds` in each round.
    """
    start = partial(start_measurement, servers.stack, "benchmarks.baselines")
    version = f"--version={servers.models_dir / NAME / '1'}"
    models = [start("model", version, "--threads", count) for count in ("1", "2")]
    torches = [start("torch", "--threads", count) for count in ("1", "2")]
    load = load_runner(gateway, backend)
    load(8)

    def over_calls(concurrency: int, models: Sequence[Callable[..., float]]) -> Pair:
        size = max(MIN_BATCH_SIZE, concurrency)
        # The better of one and two threads, as a user would choose.
        return load(concurrency), max(measure(batch_size=size, seconds=seconds) for measure in models)

    def over_another(measured: Measure, baseline: Measure) -> Pair:
        return measured(), baseline()[0].tokens_per_s

    for concurrency, aim in ((1, None), (8, 0.7), (64, 0.85)):
        name = f"(a) {concurrency} concurrent, over the same calls in one process"
        yield ServingComparison(name, aim), partial(over_calls, concurrency, models)
    name = "(a) 64 concurrent, over the same with one thread, as the model server has"
    yield ServingComparison(name, 0.85), partial(over_calls, 64, models[:1])
    name = "(b) 1 concurrent, over the same request by PyTorch's nn.LSTM"
    yield ServingComparison(name, 1), lambda: (load(1), max(measure(seconds=seconds) for measure in torches))
    for name, fields in OPTIONS.items():
        plain = ServingComparison(f"(c) 64 concurrent with {name}, over 64 without", 0.6)
        yield plain, partial(over_another, partial(load, 64, **fields), partial(load, 64))
    if TENSORFLOW_MODEL_SERVER in os.environ:
        other_backend = servers.start_tensorflow_serving(os.environ[TENSORFLOW_MODEL_SERVER])
        other = load_runner(servers.start_gateway([other_backend]), other_backend)
        other(8)
        for number in (1, 8, 64):
            comparison = ServingComparison(f"(d) {number} concurrent on TensorFlow Serving, over model_server")
            yield comparison, partial(over_another, partial(other, number), partial(load, number))


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    rounds, seconds = (3, 1.0) if parser.parse_args().quick else (9, 2.0)
    started = time.time()
    with fixture_servers() as servers:
        backend, gateway = servers.start()
        comparisons = list(start_comparisons(servers, backend, gateway, seconds))
        for _ in each_round(rounds):
            for comparison, measure in comparisons:
                comparison.add_load(*measure())
        worker = {"start_s": gateway.start_s, "resident_mb": gateway.resident_mb()}
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
        for each, _ in comparisons
    ]
    cpu = "CPU µs per token: gateway / model server / load generator"
    first = ("time to first token, ms: p50", "p99")
    print_table(("", "tokens/s", "baseline tokens/s", "ratio", "aim", *first, cpu), rows)
    print(f"\ngateway worker: {worker['resident_mb']:.0f} MB after the load, {worker['start_s']:.2f} s to /healthz")
    write_results("", started, worker=worker, results=[each for each, _ in comparisons])


if __name__ == "__main__":
    main()
