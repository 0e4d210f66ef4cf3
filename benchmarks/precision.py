"""`python -m benchmarks.precision`: serving in bfloat16 over float32, and bit-exact across CPUs over the default.

Two gateways call the same version in one precision each, and two model servers run with and without `--portable`. Each
pair is measured in alternation.
"""

import time
from collections.abc import Callable
from functools import partial

from benchmarks.fixture_model import BODY, NEW_TOKENS, NUM_REQUESTS, PROMPT_LENGTH
from benchmarks.load import Load, compare_throughput, run_load
from benchmarks.report import Comparison, print_heading, print_table, rounds_parser, write_results
from benchmarks.servers import fixture_servers


def main() -> None:
    parser = rounds_parser("benchmarks.precision", __doc__, rounds=5)
    parser.add_argument("--units", type=int, nargs="+", default=[256, 512, 1024], help="widths of the LSTM")
    options = parser.parse_args()
    started = time.time()
    comparisons = [comparison for units in options.units for comparison in _compare(units, options.rounds)]
    print_heading(f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request", options.rounds)
    print_table(("tokens/s", "variant", "default", "ratio"), [each.row() for each in comparisons])
    write_results("precision-", started, results=comparisons)


def _compare(units: int, rounds: int) -> list[Comparison]:
    def load(port: int) -> Callable[[int], Load]:
        def run(concurrency: int) -> Load:
            # A wide layer takes several times as long.
            num_requests = max(concurrency, NUM_REQUESTS[concurrency] * 512 // max(512, units * 2))
            return run_load(port, BODY, concurrency=concurrency, num_requests=num_requests)

        run(8)
        return run

    with fixture_servers(units) as servers:
        backend, gateway = servers.start(SOSTENUTO_PRECISION="float32")
        rounded = load(servers.start_gateway([backend], SOSTENUTO_PRECISION="bfloat16").port)
        portable = load(servers.start(portable=True, SOSTENUTO_PRECISION="float32")[1].port)
        compare = partial(compare_throughput, baseline=load(gateway.port), rounds=rounds)
        return [
            *compare(f"{units} units, bfloat16", rounded),
            *compare(f"{units} units, --portable", portable),
        ]


if __name__ == "__main__":
    main()
