"""`python -m benchmarks.revision CHECKOUT`: throughput of this gateway over that of another checkout of the project.

Both gateways run in front of one model server and are measured in alternation, so that a change which costs time shows
as a ratio below 1.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.fixture_model import BODY, NEW_TOKENS, NUM_REQUESTS, PROMPT_LENGTH, UNITS
from benchmarks.load import run_load
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import Gateway, cpu_s, fixture_servers

CONCURRENCIES = (1, 64)


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.revision", description=__doc__)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="folder of the other revision")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    if not (options.checkout / "service").is_dir():
        parser.error(f"{options.checkout} has no package service")
    started = time.time()
    comparisons = _compare(options.checkout.resolve(), options.rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"this gateway over that of {options.checkout}, LSTM of {UNITS} units, {setup}", options.rounds)
    rows = [each.row(",.1f" if "CPU" in each.name else ",.0f") for each in comparisons]
    print_table(("", "this", "other", "ratio"), rows)
    write_results("revision", started, results=[asdict(each) for each in comparisons])


def _compare(checkout: Path, rounds: int) -> list[Comparison]:
    """Return throughput and CPU time per token of both gateways, at each concurrency."""
    throughput = {number: Comparison(f"{number} concurrent: tokens/s") for number in CONCURRENCIES}
    cpu = {number: Comparison(f"{number} concurrent: gateway CPU per token, µs") for number in CONCURRENCIES}
    with fixture_servers() as servers:
        backend = servers.start_model_server()
        ours, other = servers.start_gateway([backend]), servers.start_gateway([backend], checkout=checkout)
        for gateway in (ours, other):
            _measure(gateway, 8)
        for _ in each_round(rounds):
            for concurrency in CONCURRENCIES:
                results = [_measure(gateway, concurrency) for gateway in (ours, other)]
                throughput[concurrency].add(*(tokens_per_s for tokens_per_s, _ in results))
                cpu[concurrency].add(*(cpu_us for _, cpu_us in results))
    return [*throughput.values(), *cpu.values()]


def _measure(gateway: Gateway, concurrency: int) -> tuple[float, float]:
    """Return tokens per second, and the CPU time of the gateway's worker per token in microseconds."""
    (worker,) = gateway.workers
    cpu_before = cpu_s(worker)
    load = run_load(gateway.port, BODY, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency])
    return load.tokens_per_s, 1e6 * (cpu_s(worker) - cpu_before) / load.tokens


if __name__ == "__main__":
    main()
