"""`python -m benchmarks.portable`: the cost of bit-exact outputs across CPU models, in alternation with the default."""

from benchmarks.fixture_model import BODY, NUM_REQUESTS, UNITS
from benchmarks.load import run_load
from benchmarks.report import Comparison, each_round, parse_rounds, print_heading, print_table
from benchmarks.servers import fixture_servers

CONCURRENCIES = (1, 8, 64)


def main() -> None:
    """Measure and print a table."""
    rounds = parse_rounds("benchmarks.portable", __doc__)
    comparisons = {concurrency: Comparison(f"{concurrency}") for concurrency in CONCURRENCIES}
    with fixture_servers() as servers:
        ports = [servers.start(portable=portable)[1].port for portable in (False, True)]
        for _ in each_round(rounds):
            for concurrency, comparison in comparisons.items():
                default, portable = (
                    run_load(port, BODY, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency]).tokens_per_s
                    for port in ports
                )
                comparison.add(portable, default)
    print_heading(f"model_server, LSTM of {UNITS} units", rounds)
    rows = [comparison.row() for comparison in comparisons.values()]
    print_table(("concurrency", "portable, tokens/s", "default, tokens/s", "ratio"), rows)


if __name__ == "__main__":
    main()
