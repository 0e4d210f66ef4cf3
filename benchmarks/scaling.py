"""`python -m benchmarks.scaling`: throughput per core of a model server, of two servers, and the capacity of a gateway.

Each arrangement is measured in alternation, with the CPU time per token of model servers and gateway. A gateway is
saturated when its worker uses a full core, so the CPU times tell how many model-server cores one gateway can feed: more
than this machine has.
"""

import itertools
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH
from benchmarks.load import CONCURRENCIES, run_load, with_cpu_times
from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table, spread, write_results
from benchmarks.servers import Servers, fixture_servers

SIZES = (256, 512, 1024)
# Requests per measurement: some seconds.
NUM_REQUESTS = {1: 16, 8: 64, 64: 640}
ONE_CORE, TWO_CORES, TWO_SERVERS = "one server, one core", "one server, two cores", "two servers, two cores"


@dataclass
class Measurements:
    """Measurements of one model size in one arrangement at one concurrency, one per round.

    Attributes:
        tokens_per_s: Throughput.
        server_us: CPU time of all model servers per generated token, in microseconds.
        gateway_us: CPU time of the gateway's worker per generated token, in microseconds.
    """

    tokens_per_s: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)


def arrange(
    servers: Servers, num_servers: int, max_calls: int, *, pinned: bool = False
) -> Callable[[int], tuple[float, float, float]]:
    """Start model servers and a gateway; return a function that measures them at a concurrency.

    It returns tokens per second, and the CPU time per token of model servers and gateway in microseconds. If `pinned`,
    the model server has the first core to itself, and the gateway shares the second with the load generator.
    """
    backends = [servers.start_model_server("--tensorflow_inter_op_parallelism=2") for _ in range(num_servers)]
    gateway = servers.start_gateway(backends, SOSTENUTO_MAX_CALLS=str(max_calls))
    pids, workers = [backend.process.pid for backend in backends], gateway.workers
    first, *others = sorted(os.sched_getaffinity(0))

    def measure(concurrency: int) -> tuple[float, float, float]:
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
        return load.tokens_per_s, cpu_us["server"], cpu_us["gateway"]

    return measure


def measure(rounds: int) -> dict[tuple[int, str, int], Measurements]:
    """Measure every size in every arrangement at every concurrency, `rounds` times, in alternation."""
    results: dict[tuple[int, str, int], Measurements] = {}
    for units in SIZES:
        with fixture_servers(units) as servers:
            arrangements = {
                ONE_CORE: arrange(servers, 1, 1, pinned=True),
                TWO_CORES: arrange(servers, 1, 2),
                TWO_SERVERS: arrange(servers, 2, 1),
            }
            for _ in each_round(rounds, f"{units} units, "):
                for concurrency, (name, run) in itertools.product(CONCURRENCIES, arrangements.items()):
                    measurements = results.setdefault((units, name, concurrency), Measurements())
                    for values, value in zip(vars(measurements).values(), run(concurrency), strict=True):
                        values.append(value)
    return results


def capacity_row(per_core: Measurements) -> list[str]:
    """Return throughput and CPU times of one core, and how many such cores a gateway can feed."""
    cores = [server / gateway for server, gateway in zip(per_core.server_us, per_core.gateway_us, strict=True)]
    times = spread(per_core.server_us, ".1f"), spread(per_core.gateway_us, ".1f")
    return [spread(per_core.tokens_per_s, ",.0f"), *times, spread(cores, ".1f")]


def main() -> None:
    """Measure, print tables and write the results as JSON."""
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
            results[units, name, concurrency].tokens_per_s for name in (ONE_CORE, TWO_CORES, TWO_SERVERS)
        )
        pairs = Comparison("", None, two_cores, one_core), Comparison("", None, servers, two_cores)
        rows.append([units, concurrency, *(pair.ratio() for pair in pairs)])
    print()
    print_table(("units", "concurrency", "two cores over one", "two servers over one, both on two cores"), rows)
    write_results("scaling-", started, results={str(key): asdict(values) for key, values in results.items()})


if __name__ == "__main__":
    main()
