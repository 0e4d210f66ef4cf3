"""`python -m benchmarks.revision CHECKOUT`: speed of this gateway over that of another checkout of the project.

Throughput, time to first token and CPU time per token, with 1 to 64 streams and with requests that arrive at random
times. Both gateways run in front of one model server and are measured in alternation, so that a change which costs
time shows as a ratio.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_arrivals, run_load, with_cpu_times
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import Gateway, fixture_servers

STREAMS = (1, 4, 8, 16, 64)
# Requests per second that arrive at random times; 64 streams complete some 300.
RATES = (100, 200)
# Requests per measurement: a few seconds.
MIN_REQUESTS, REQUESTS_PER_STREAM, SECONDS_OF_ARRIVALS = 24, 20, 5


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.revision", description=__doc__)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="checkout directory of the other revision")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    if not (options.checkout / "service").is_dir():
        parser.error(f"{options.checkout} has no package service")
    started = time.time()
    comparisons = _compare(options.checkout.resolve(), options.rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"this gateway over that of {options.checkout}, LSTM of {UNITS} units, {setup}", options.rounds)
    rows = [each.row(",.0f" if "tokens/s" in each.name else ",.1f") for each in comparisons]
    print_table(("", "this", "other", "ratio"), rows)
    write_results("revision-", started, results=[asdict(each) for each in comparisons])


def _compare(checkout: Path, rounds: int) -> list[Comparison]:
    """Return every metric of both gateways, at each concurrency."""
    results: dict[str, Comparison] = {}
    with fixture_servers() as servers:
        backend = servers.start_model_server()
        ours, other = servers.start_gateway([backend]), servers.start_gateway([backend], checkout=checkout)
        loads = {f"{streams} streams": _streams(streams) for streams in STREAMS}
        loads |= {f"{rate} requests/s": _arrivals(rate) for rate in RATES}
        for gateway in (ours, other):
            _streams(8)(gateway)
        for _ in each_round(rounds):
            for kind, run in loads.items():
                measured, baseline = _measure(ours, run), _measure(other, run)
                for metric, value in measured.items():
                    name = f"{kind}: {metric}"
                    results.setdefault(name, Comparison(name)).add(value, baseline[metric])
    return list(results.values())


def _streams(streams: int) -> Callable[[Gateway], Load]:
    num_requests = max(MIN_REQUESTS, REQUESTS_PER_STREAM * streams)
    return lambda gateway: run_load(gateway.port, BODY, concurrency=streams, num_requests=num_requests)


def _arrivals(rate: int) -> Callable[[Gateway], Load]:
    return lambda gateway: run_arrivals(gateway.port, BODY, rate=rate, num_requests=rate * SECONDS_OF_ARRIVALS)


def _measure(gateway: Gateway, run: Callable[[Gateway], Load]) -> dict[str, float]:
    """Return throughput, time to first token, and the CPU time of the gateway's worker per token."""
    load, cpu_us = with_cpu_times({"gateway": gateway.workers}, lambda: run(gateway))
    return {
        "tokens/s": load.tokens_per_s,
        "time to first token, p50, ms": load.first_ms(0.5),
        "time to first token, p99, ms": load.first_ms(0.99),
        "gateway CPU per token, µs": cpu_us["gateway"],
    }


if __name__ == "__main__":
    main()
