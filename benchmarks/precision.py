"""`python -m benchmarks.precision`: serving in bfloat16 over serving in float32, over HTTP.

Two gateways run in front of one model server, call the same version in one precision each, and are measured in
alternation.
"""

import argparse
import time
from dataclasses import asdict

from benchmarks.fixture_model import BODY, NEW_TOKENS, NUM_REQUESTS, PROMPT_LENGTH
from benchmarks.load import run_load
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import fixture_servers

CONCURRENCIES = (1, 8, 64)


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.precision", description=__doc__)
    parser.add_argument("--units", type=int, nargs="+", default=[256, 512, 1024], help="widths of the LSTM")
    parser.add_argument("--rounds", type=int, default=5, help="number of rounds (default: 5)")
    options = parser.parse_args()
    started, comparisons = time.time(), []
    for units in options.units:
        comparisons += _compare(units, options.rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"tokens/s in bfloat16 over float32, {setup}", options.rounds)
    print_table(("", "bfloat16", "float32", "ratio"), [each.row(",.0f") for each in comparisons])
    write_results("precision-", started, results=[asdict(each) for each in comparisons])


def _compare(units: int, rounds: int) -> list[Comparison]:
    """Return the throughput in both precisions at each concurrency."""
    throughput = {number: Comparison(f"{units} units, {number} concurrent") for number in CONCURRENCIES}
    with fixture_servers(units) as servers:
        backend = servers.start_model_server()
        ports = [
            servers.start_gateway([backend], SOSTENUTO_PRECISION=precision).port
            for precision in ("bfloat16", "float32")
        ]
        for port in ports:
            run_load(port, BODY, concurrency=8, num_requests=NUM_REQUESTS[8])
        for _ in each_round(rounds):
            for number, comparison in throughput.items():
                # A wide layer takes several times as long.
                num_requests = max(number, NUM_REQUESTS[number] * 512 // max(512, units * 2))
                loads = [run_load(port, BODY, concurrency=number, num_requests=num_requests) for port in ports]
                comparison.add(*(load.tokens_per_s for load in loads))
    return list(throughput.values())


if __name__ == "__main__":
    main()
