"""`python -m benchmarks.revision CHECKOUT`: speed of this gateway over that of another checkout of the project.

Throughput, time to first token and CPU time per token, with 1 to 64 streams and with requests that arrive at random
times, a third and two thirds as many per second as the other gateway completes with 64 streams. Both gateways run in
front of one model server; with `--stack` each has a model and a model server of its own checkout. Both run all the time
and take turns, so that a change which costs time shows as a ratio.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.fixture_model import BODY, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_arrivals, run_load, with_cpu_times
from benchmarks.report import Comparison, each_round, print_heading, print_table, rounds_parser, write_results
from benchmarks.servers import Gateway, descendants, fixture_servers

STREAMS = (1, 4, 8, 16, 64)
# Requests that arrive per second, as a share of those that 64 streams complete.
SHARES = (1 / 3, 2 / 3)
# Requests per measurement: a few seconds.
MIN_REQUESTS, REQUESTS_PER_STREAM, SECONDS_OF_ARRIVALS = 24, 20, 5


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = rounds_parser("benchmarks.revision", __doc__, rounds=5)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="checkout directory of the other revision")
    parser.add_argument("--stack", action="store_true", help="compare model, model server and gateway together")
    parser.add_argument("--precision", default="auto", help="SOSTENUTO_PRECISION of this gateway (default: auto)")
    options = parser.parse_args()
    if not (options.checkout / "service").is_dir():
        parser.error(f"{options.checkout} has no package service")
    started, results = time.time(), dict[str, Comparison]()
    with contextlib.ExitStack() as stack:
        sides = _start(stack, options.checkout.resolve(), options.precision, whole=options.stack)
        loads = {f"{streams} streams": _streams(streams) for streams in STREAMS}
        for gateway in sides:
            capacity = _streams(64)(gateway).tokens_per_s / NEW_TOKENS
        loads |= {f"{rate:.0f} requests/s": _arrivals(rate) for rate in (share * capacity for share in SHARES)}
        for _ in each_round(options.rounds):
            for kind, run in loads.items():
                measured, baseline = (_measure(gateway, run) for gateway in sides)
                for metric, value in measured.items():
                    name = f"{kind}: {metric}"
                    results.setdefault(name, Comparison(name)).add(value, baseline[metric])
    what = "stack" if options.stack else "gateway"
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens, precision {options.precision}"
    print_heading(f"this {what} over that of {options.checkout}, LSTM of {UNITS} units, {setup}", options.rounds)
    rows = [each.row(",.0f" if "tokens/s" in each.name else ",.1f") for each in results.values()]
    print_table(("", "this", "other", "ratio"), rows)
    write_results(f"revision-{what}-", started, results=list(results.values()))


def _start(stack: contextlib.ExitStack, checkout: Path, precision: str, *, whole: bool) -> Sequence[Gateway]:
    """Start this gateway and the other one; `whole` stacks have their own model and model server."""
    servers = stack.enter_context(fixture_servers())
    backends = [] if whole else [servers.start_model_server()]
    others = stack.enter_context(fixture_servers(checkout=checkout)) if whole else servers
    ours = servers.start_gateway(backends, SOSTENUTO_PRECISION=precision)
    return ours, others.start_gateway(backends, checkout=checkout)


def _streams(streams: int) -> Callable[[Gateway], Load]:
    num_requests = max(MIN_REQUESTS, REQUESTS_PER_STREAM * streams)
    return lambda gateway: run_load(gateway.port, BODY, concurrency=streams, num_requests=num_requests)


def _arrivals(rate: float) -> Callable[[Gateway], Load]:
    num_requests = round(rate * SECONDS_OF_ARRIVALS)
    return lambda gateway: run_arrivals(gateway.port, BODY, rate=rate, num_requests=num_requests)


def _measure(gateway: Gateway, run: Callable[[Gateway], Load]) -> dict[str, float]:
    """Return throughput, time to first token, and the CPU time per token, of the model server, too, if it has one."""
    load, cpu_us = with_cpu_times({"servers": descendants(gateway.process.pid)}, lambda: run(gateway))
    return {
        "tokens/s": load.tokens_per_s,
        "time to first token, p50, ms": load.first_ms(0.5),
        "time to first token, p99, ms": load.first_ms(0.99),
        "CPU per token, µs": cpu_us["servers"],
    }


if __name__ == "__main__":
    main()
