"""`python -m benchmarks.scaling`: throughput per core of a model server, of two servers, and the capacity of a gateway.

Each arrangement is measured in alternation, with the CPU time per token of model servers and gateway. A gateway is
saturated when its worker uses a full core, so the CPU times tell how many model-server cores one gateway can feed: more
than this machine has.
"""

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.__main__ import (
    BODY,
    child,
    children,
    machine,
    spread,
    start_gateway,
    start_model_server,
    wait_for,
    write_results,
)
from benchmarks.fixture_model import NEW_TOKENS, PROMPT_LENGTH
from benchmarks.load import run_load

SIZES = (256, 512, 1024)
CONCURRENCIES = (1, 8, 64)
# Requests per measurement: some seconds.
NUM_REQUESTS = {1: 16, 8: 64, 64: 640}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
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


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, user and system, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def arrange(
    models_dir: Path, stack: contextlib.ExitStack, num_servers: int, max_calls: int, *, pinned: bool = False
) -> Callable[[int], tuple[float, float, float]]:
    """Start model servers and a gateway; return a function that measures them at a concurrency.

    It returns tokens per second, and the CPU time per token of model servers and gateway in microseconds. If `pinned`,
    the model server has the first core to itself, and the gateway shares the second with the load generator.
    """
    servers = [start_model_server(models_dir, stack, "--tensorflow_inter_op_parallelism=2") for _ in range(num_servers)]
    ports = [port for _, port in servers]
    gateway, port = start_gateway(models_dir, stack, ports, OSTINATO_MAX_CALLS=str(max_calls))
    wait_for(port, "/readyz", gateway)
    pids = [process.pid for process, _ in servers]
    workers = children(gateway.pid)
    first, *others = sorted(os.sched_getaffinity(0))

    def measure(concurrency: int) -> tuple[float, float, float]:
        if pinned:
            for pid in (*pids, *workers, os.getpid()):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(thread.name), {first} if pid in pids else others)
        try:
            before = sum(map(cpu_s, pids)), sum(map(cpu_s, workers))
            load = run_load(port, BODY, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency])
            after = sum(map(cpu_s, pids)), sum(map(cpu_s, workers))
        finally:
            if pinned:
                os.sched_setaffinity(0, {first, *others})
        server, worker = (1e6 * (end - begin) / load.tokens for begin, end in zip(before, after, strict=True))
        return load.tokens_per_s, server, worker

    return measure


def measure(rounds: int) -> dict[tuple[int, str, int], Measurements]:
    """Measure every size in every arrangement at every concurrency, `rounds` times, in alternation."""
    results: dict[tuple[int, str, int], Measurements] = {}
    for units in SIZES:
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            with child("benchmarks.publish", folder, str(units)) as publishing:
                publishing.communicate()
            arrangements = {
                ONE_CORE: arrange(Path(folder), stack, 1, 1, pinned=True),
                TWO_CORES: arrange(Path(folder), stack, 1, 2),
                TWO_SERVERS: arrange(Path(folder), stack, 2, 1),
            }
            for number in range(rounds):
                print(f"{units} units, round {number + 1} of {rounds}", flush=True)
                for concurrency in CONCURRENCIES:
                    for name, run in arrangements.items():
                        measurements = results.setdefault((units, name, concurrency), Measurements())
                        for values, value in zip(vars(measurements).values(), run(concurrency), strict=True):
                            values.append(value)
    return results


def main() -> None:
    """Measure, print tables and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) != 2:
        parser.error(f"two cores are needed, no more and no less (taskset), got {len(os.sched_getaffinity(0))}")
    started = time.time()
    results = measure(options.rounds)
    print(f"\n{machine()}, model_server as the model server; LSTM, {PROMPT_LENGTH} characters read and")
    print(f"{NEW_TOKENS} tokens written a request; medians of {options.rounds} rounds, the range in brackets\n")
    print("| units | streams | tokens/s of one core | µs a token: model server | gateway | one gateway feeds, cores |")
    print("|---|---|---|---|---|---|")
    for units in SIZES:
        for concurrency in CONCURRENCIES:
            base = results[units, ONE_CORE, concurrency]
            feeds = [server / gateway for server, gateway in zip(base.server_us, base.gateway_us, strict=True)]
            columns = spread(base.tokens_per_s, ",.0f"), spread(base.server_us, ".1f"), spread(base.gateway_us, ".1f")
            print(f"| {units} | {concurrency} | {' | '.join(columns)} | {spread(feeds, '.1f')} |")
    print("\n| units | streams | two cores over one | two servers over one, both on two cores |\n|---|---|---|---|")
    for units in SIZES:
        for concurrency in CONCURRENCIES:
            one_core, two_cores, servers = (
                results[units, name, concurrency].tokens_per_s for name in (ONE_CORE, TWO_CORES, TWO_SERVERS)
            )
            pairs = (two_cores, one_core), (servers, two_cores)
            ratios = [[value / base for value, base in zip(*pair, strict=True)] for pair in pairs]
            print(f"| {units} | {concurrency} | {spread(ratios[0])} | {spread(ratios[1])} |")
    write_results("scaling-", started, figures={str(key): asdict(values) for key, values in results.items()})


if __name__ == "__main__":
    main()
