"""`python -m benchmarks.training_load`: 8 streams while a training job runs on the same cores, over 8 streams alone.

The job is stopped by SIGSTOP in the measurements without it, so that both sides alternate.
"""

import contextlib
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fixture_model import NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_fixture_load
from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table, write_results
from benchmarks.servers import child, cpu_s, descendants, fixture_servers
from sostenuto import Client

NUM_STREAMS, AIM = 8, 0.7
MINUTES = 60
START_S = 300.0


class Job:
    """A running job of the default recipe."""

    def __init__(self, port: int, trainer: int) -> None:
        self._trainer = trainer
        self._job = Client(f"http://127.0.0.1:{port}").train(_text().encode(), minutes=MINUTES)

    def wait_until_it_trains(self) -> None:
        """Wait for its first updates; raise SystemExit if there are none in time."""
        deadline = time.monotonic() + START_S
        while not self._job.refresh().trained_tokens:
            if self._job.error or time.monotonic() > deadline:
                raise SystemExit(f"error: the job does not train: {self._job.raw}")
            time.sleep(0.5)

    @property
    def pids(self) -> Sequence[int]:
        return descendants(self._trainer)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        pids = self.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


def _text() -> str:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 8))) for _ in range(2000)]
    return " ".join(rng.choices(words, k=150_000))


def main() -> None:
    rounds, started = parse_rounds("benchmarks.training_load", __doc__), time.time()
    throughput, first = Comparison(f"{NUM_STREAMS} streams, tokens/s", AIM), Comparison("first token, median, ms")
    shares = []
    with fixture_servers() as servers, tempfile.TemporaryDirectory() as directory:
        _, gateway = servers.start(SOSTENUTO_TRAINING_DIR=directory)
        models_dir = Path(directory) / "models"
        arguments = ("--training-dir", directory, "--models-dir", str(models_dir))
        with child("jobs", *arguments) as trainer:
            job = Job(gateway.port, trainer.pid)
            job.wait_until_it_trains()
            for _ in each_round(rounds):
                with job.stopped():
                    alone = _load(gateway.port)
                beside, share = _with_share(job, gateway.port)
                throughput.add(beside.tokens_per_s, alone.tokens_per_s)
                first.add(beside.first_ms(0.5), alone.first_ms(0.5))
                shares.append(share)
    setup = f"LSTM of {UNITS} units, {PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(setup, rounds)
    print_table(("", "with a job", "without", "ratio"), [throughput.row(), first.row()])
    print(f"\nthe job has {statistics.median(shares):.2f} cores meanwhile; aim of the first ratio: ≥ {AIM:g}")
    write_results("training-load-", started, results=[throughput, first], job_cores=shares)


def _load(port: int) -> Load:
    run_fixture_load(port, NUM_STREAMS)
    return run_fixture_load(port, NUM_STREAMS)


def _with_share(job: Job, port: int) -> tuple[Load, float]:
    """Run the load, and return it with the cores that the job uses."""
    run_fixture_load(port, NUM_STREAMS)
    used, began = sum(map(cpu_s, job.pids)), time.monotonic()
    load = run_fixture_load(port, NUM_STREAMS)
    return load, (sum(map(cpu_s, job.pids)) - used) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
