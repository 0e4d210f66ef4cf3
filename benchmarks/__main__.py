"""`python -m benchmarks`: throughput over HTTP, as a ratio to baselines measured in alternation."""

import argparse
import statistics
import time
from dataclasses import asdict

from benchmarks.fixture_model import EMBEDDING, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.report import print_heading, print_table, write_results
from benchmarks.serving import ServingBenchmark


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds instead of nine")
    rounds, seconds = (3, 1.0) if parser.parse_args().quick else (9, 2.0)
    started, benchmark = time.time(), ServingBenchmark(seconds)
    worker = benchmark.run(rounds)
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens per request"
    print_heading(f"model_server, LSTM of {UNITS} units, embedding {EMBEDDING}, {setup}", rounds)
    rows = [
        [
            *each.row(),
            "" if each.aim is None else f"≥ {each.aim:g}",
            f"{statistics.median(each.first_p50_ms):.0f}",
            f"{statistics.median(each.first_p99_ms):.0f}",
            each.cpu(),
        ]
        for each in benchmark.comparisons
    ]
    cpu = "CPU µs per token: gateway / model server / load generator"
    first = ("time to first token, ms: p50", "p99")
    print_table(("", "tokens/s", "baseline tokens/s", "ratio", "aim", *first, cpu), rows)
    print(f"\ngateway worker: {worker['resident_mb']:.0f} MB after the load, {worker['start_s']:.2f} s to /healthz")
    write_results("", started, worker=worker, results=[asdict(each) for each in benchmark.comparisons])


if __name__ == "__main__":
    main()
