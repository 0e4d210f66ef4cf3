"""`python -m benchmarks.portable`: the cost of bit-exact outputs across CPU models, in alternation with the default."""

import argparse
import contextlib
import statistics
import tempfile
from pathlib import Path

from benchmarks.__main__ import BODY, NUM_REQUESTS, child, machine, service, spread
from benchmarks.fixture_model import UNITS
from benchmarks.load import run_load

CONCURRENCIES = (1, 8, 64)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.portable", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    options = parser.parse_args()
    throughputs: dict[tuple[int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        with child("benchmarks.publish", folder) as publishing:
            publishing.communicate()
        ports = {
            portable: stack.enter_context(service(Path(folder), stack, portable=portable))[0]
            for portable in (False, True)
        }
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for concurrency in CONCURRENCIES:
                for portable, port in ports.items():
                    load = run_load(port, BODY, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency])
                    throughputs.setdefault((concurrency, portable), []).append(load.tokens_per_s)
    print(f"\n{machine()}, model_server as the model server; LSTM of {UNITS} units;")
    print(f"medians of {options.rounds} rounds, the ratio's range in brackets\n")
    print("| at a time | portable, tokens/s | usual, tokens/s | ratio |\n|---|---|---|---|")
    for concurrency in CONCURRENCIES:
        ours, usual = throughputs[concurrency, True], throughputs[concurrency, False]
        ratios = [a / b for a, b in zip(ours, usual, strict=True)]
        print(
            f"| {concurrency} | {statistics.median(ours):,.0f} | {statistics.median(usual):,.0f} | {spread(ratios)} |"
        )


if __name__ == "__main__":
    main()
