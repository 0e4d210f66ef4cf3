"""`python -m benchmarks.scaling`: throughput per core of a model server, of two servers, and the capacity of a gateway.

Each arrangement is measured in alternation, with the CPU time per token of model servers and gateway. A gateway is
saturated when its worker uses a full core, so the CPU times tell how many model-server cores one gateway can feed: more
than this machine has.
"""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH
from benchmarks.load import CONCURRENCIES, run_load, with_cpu_times
from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table, spread, write_results
from benchmarks.servers import Servers, fixture_servers

SIZES = (256, 512, 1024)
# Requests per measurement: some seconds.
NUM_REQUESTS = {1: 16, 8: 64, 64: 640}
ONE_CORE, TWO_CORES, TWO_SERVERS = "one server, one core", "one server, two cores", "two servers, two cores"


@dataclass(frozen=True)
class Measurement:
    """One round of one model size in one arrangement at one concurrency; the CPU times are per generated token."""

    tokens_per_s: float
    server_us: float  # of all model servers
    gateway_us: float


def arrange(
    servers: Servers, num_servers: int, max_calls: int, *, pinned: bool = False
) -> Callable[[int], Measurement]:
    """Start model servers and a gateway; return a function that measures them at a concurrency.

    If `pinned`, the model server has the first core to itself, and the gateway shares the second with the load
    generator.
    """
    backends = [servers.start_model_server() for _ in range(num_servers)]
    gateway = servers.start_gateway(backends, SOSTENUTO_MAX_CALLS=str(max_calls))
    pids, workers = [backend.process.pid for backend in backends], gateway.workers
    first, *others = sorted(os.sched_getaffinity(0))

    def measure(concurrency: int) -> Measurement:
        if pinned:
            for pid in (*pids, *workers, os.getpid()):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {first} if pid in pids else others)
        try:
            load, cpu_us = with_cpu_times(
                {"server": pids, "gateway": workers},
                lambda: run_load(gateway.port, BODY, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency]),
            )
        finally:
            if pinned:
                os.sched_setaffinity(0, {first, *others})
        return Measurement(load.tokens_per_s, cpu_us["server"], cpu_us["gateway"])

    return measure


def measure(rounds: int) -> dict[tuple[int, str, int], list[Measurement]]:
    """Measure every size in every arrangement at every concurrency, `rounds` times, in alternation."""
    results: dict[tuple[int, str, int], list[Measurement]] = {}
    for units in SIZES:
        with fixture_servers(units) as servers:
            arrangements = {
                ONE_CORE: arrange(servers, 1, 1, pinned=True),
                TWO_CORES: arrange(servers, 1, 2),
                TWO_SERVERS: arrange(servers, 2, 1),
            }
            for _ in each_round(rounds, f"{units} units, "):
                for concurrency, (name, run) in itertools.product(CONCURRENCIES, arrangements.items()):
                    results.setdefault((units, name, concurrency), []).append(run(concurrency))
    return results


def capacity_row(per_core: Sequence[Measurement]) -> list[str]:
    """Return throughput and CPU times of one core, and how many such cores a gateway can feed."""
    columns: list[list[float]] = [
        [each.server_us for each in per_core],
        [each.gateway_us for each in per_core],
        [each.server_us / each.gateway_us for each in per_core],
    ]
    return [spread([each.tokens_per_s for each in per_core], ",.0f"), *(spread(column, ".1f") for column in columns)]


def main() -> None:
    rounds = parse_rounds("benchmarks.scaling", __doc__)
    if (num_cores := len(os.sched_getaffinity(0))) != 2:
        raise SystemExit(f"error: exactly two cores are needed (taskset), got {num_cores}")
    started = time.time()
    results = measure(rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"model_server, LSTM, {setup}", rounds)
    cells = list(itertools.product(SIZES, CONCURRENCIES))
    times = "CPU µs per token: model server", "gateway"
    rows = [[units, concurrency, *capacity_row(results[units, ONE_CORE, concurrency])] for units, concurrency in cells]
    print_table(("units", "concurrency", "tokens/s per core", *times, "cores per gateway"), rows)
    rows = []
    for units, concurrency in cells:
        one_core, two_cores, servers = (
            [each.tokens_per_s for each in results[units, name, concurrency]]
            for name in (ONE_CORE, TWO_CORES, TWO_SERVERS)
        )
        pairs = Comparison("", None, two_cores, one_core), Comparison("", None, servers, two_cores)
        rows.append([units, concurrency, *(pair.ratio() for pair in pairs)])
    print()
    print_table(("units", "concurrency", "two cores over one", "two servers over one, both on two cores"), rows)
    write_results("scaling-", started, results={str(key): values for key, values in results.items()})


if __name__ == "__main__":
    main()
