"""The serving benchmark: throughput over HTTP, as a ratio to baselines."""

import functools
import itertools
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fixture_model import BODY, NAME, NUM_REQUESTS
from benchmarks.load import Load, run_load
from benchmarks.measurement import start_measurement
from benchmarks.report import Comparison, each_round
from benchmarks.servers import Gateway, ModelServer, cpu_s, fixture_servers

PENALTIES = {"presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1}
OPTIONS = {"penalties": PENALTIES, "logprobs 5": {"logprobs": 5}, "both": {**PENALTIES, "logprobs": 5}}
MIN_BATCH_SIZE = 8
# Names an executable of TensorFlow Serving, to measure it beside model_server.
TENSORFLOW_MODEL_SERVER = "TENSORFLOW_MODEL_SERVER"


class Service:
    """A gateway and its model server, under load."""

    def __init__(self, gateway: Gateway, backend: ModelServer) -> None:
        """Take servers that are ready."""
        self._port = gateway.port
        self._pids = {"gateway": gateway.workers, "model server": [backend.process.pid]}

    def run_load(self, concurrency: int, **fields: Any) -> tuple[Load, dict[str, float]]:
        """Run a load; return it and the CPU time per token in microseconds of each process."""
        before = self._cpu_s()
        body, num_requests = {**BODY, **fields}, NUM_REQUESTS[concurrency]
        load = run_load(self._port, body, concurrency=concurrency, num_requests=num_requests)
        used = {part: after - before[part] for part, after in self._cpu_s().items()} | {"load generator": load.cpu_s}
        return load, {part: 1e6 * seconds / load.tokens for part, seconds in used.items()}

    def _cpu_s(self) -> dict[str, float]:
        return {part: sum(map(cpu_s, pids)) for part, pids in self._pids.items()}


RunLoad = Callable[..., tuple[Load, dict[str, float]]]


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
        self._per_token = ServingComparison("(b) 32 concurrent, over sequential `serving_default` calls per token", 20)
        self._torch = ServingComparison("(c) 1 concurrent, over the same request by PyTorch's nn.LSTM", 1)
        self._options = {
            name: ServingComparison(f"(d) 64 concurrent with {name}, over 64 without", 0.6) for name in OPTIONS
        }
        self._tensorflow_serving = {
            concurrency: ServingComparison(f"(e) {concurrency} concurrent on TensorFlow Serving, over model_server")
            for concurrency in ((1, 8, 64) if TENSORFLOW_MODEL_SERVER in os.environ else ())
        }

    @property
    def comparisons(self) -> list[ServingComparison]:
        """All comparisons."""
        baselines = self._one_thread, self._per_token, self._torch
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
            per_token = start("whole-text", version, f"--address={backend.address}")
            load = Service(gateway, backend).run_load
            load(8)
            other = None
            if self._tensorflow_serving:
                backend = servers.start_tensorflow_serving(os.environ[TENSORFLOW_MODEL_SERVER])
                other = Service(servers.start_gateway([backend]), backend).run_load
                other(8)
            for _ in each_round(rounds):
                self._compare_in_process(load, models)
                for name, comparison in self._options.items():
                    plain, _ = load(64)
                    comparison.add_load(load(64, **OPTIONS[name]), plain.tokens_per_s)
                for concurrency, comparison in self._tensorflow_serving.items():
                    plain, _ = load(concurrency)
                    comparison.add_load(other(concurrency), plain.tokens_per_s)
                self._per_token.add_load(load(32), per_token())
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
