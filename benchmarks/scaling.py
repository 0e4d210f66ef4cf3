"""`python -m benchmarks.scaling`: what one core of a model server carries, how many a gateway feeds, and two of them.

Each arrangement is measured in turn, with the processor time that model servers and gateway take for a token. A gateway
is full when its worker keeps a core busy, so that time says how many model servers it can feed, of which this machine
has no room for.
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
# Requests of one measurement: some seconds' worth.
NUM_REQUESTS = {1: 16, 8: 64, 64: 640}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ONE_CORE, TWO_CORES, TWO_SERVERS = "one server, one core", "one server, two cores", "two servers, two cores"


@dataclass
class Figures:
    """What was measured of one size of model, in one arrangement, with so many streams; one entry a round.

    Attributes:
        server_us: Processor time of all model servers for each token that was written, in microseconds.
        gateway_us: The same of the gateway's worker.
    """

    tokens_per_s: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)
    gateway_us: list[float] = field(default_factory=list)


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has taken, user's and system's, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def arrange(
    models_dir: Path, stack: contextlib.ExitStack, num_servers: int, max_calls: int, *, pinned: bool = False
) -> Callable[[int], tuple[float, float, float]]:
    """Start model servers and a gateway; return a function that puts a number of streams on them.

    That returns tokens per second, and the microseconds of model servers and gateway for each token. Pinned, the model
    server has the first core alone, and the gateway shares the second with the load.
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


def measure(rounds: int) -> dict[tuple[int, str, int], Figures]:
    """Measure every size in every arrangement with every number of streams, `rounds` times, in turn."""
    found: dict[tuple[int, str, int], Figures] = {}
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
                        figures = found.setdefault((units, name, concurrency), Figures())
                        for values, value in zip(vars(figures).values(), run(concurrency), strict=True):
                            values.append(value)
    return found


def main() -> None:
    """Measure, print tables and write them as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    if len(os.sched_getaffinity(0)) != 2:
        parser.error(f"two cores are needed, no more and no less (taskset), got {len(os.sched_getaffinity(0))}")
    started = time.time()
    found = measure(options.rounds)
    print(f"\n{machine()}, model_server as the model server; LSTM, {PROMPT_LENGTH} characters read and")
    print(f"{NEW_TOKENS} tokens written a request; medians of {options.rounds} rounds, the range in brackets\n")
    print("| units | streams | tokens/s of one core | µs a token: model server | gateway | one gateway feeds, cores |")
    print("|---|---|---|---|---|---|")
    for units in SIZES:
        for concurrency in CONCURRENCIES:
            one = found[units, ONE_CORE, concurrency]
            feeds = [server / gateway for server, gateway in zip(one.server_us, one.gateway_us, strict=True)]
            columns = spread(one.tokens_per_s, ",.0f"), spread(one.server_us, ".1f"), spread(one.gateway_us, ".1f")
            print(f"| {units} | {concurrency} | {' | '.join(columns)} | {spread(feeds, '.1f')} |")
    print("\n| units | streams | two cores over one | two servers over one, both on two cores |\n|---|---|---|---|")
    for units in SIZES:
        for concurrency in CONCURRENCIES:
            one, two, servers = (
                found[units, name, concurrency].tokens_per_s for name in (ONE_CORE, TWO_CORES, TWO_SERVERS)
            )
            ratios = [[ours / base for ours, base in zip(*pair, strict=True)] for pair in ((two, one), (servers, two))]
            print(f"| {units} | {concurrency} | {spread(ratios[0])} | {spread(ratios[1])} |")
    write_results("scaling-", started, figures={str(key): asdict(figures) for key, figures in found.items()})


if __name__ == "__main__":
    main()
