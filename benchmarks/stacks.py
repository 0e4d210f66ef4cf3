"""`python -m benchmarks.stacks CHECKOUT`: speed of two revisions as whole stacks: model, model server, gateway.

Unlike `benchmarks.revision`, it compares the signatures and the model server as well. Both stacks run all the time, and
take turns. Options name what an older revision calls its modules and variables.
"""

import argparse
import contextlib
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.fixture_model import BODY, EMBEDDING, NEW_TOKENS, PROMPT_LENGTH, UNITS
from benchmarks.load import Load, run_load
from benchmarks.report import Comparison, each_round, print_heading, print_table, write_results
from benchmarks.servers import child, free_port, wait_for

# Requests per measurement by concurrency: a few seconds.
NUM_REQUESTS = {1: 16, 8: 96, 64: 640}
PUBLISH, SERVE = f"benchmarks.fixture_model MODELS {UNITS} 1 {EMBEDDING}", "service serve --no-trainer"


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.stacks", description=__doc__)
    parser.add_argument("checkout", type=Path, metavar="CHECKOUT", help="checkout directory of the other revision")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds (default: 7)")
    parser.add_argument("--precision", default="auto", help="SOSTENUTO_PRECISION of this revision (default: auto)")
    parser.add_argument("--publish", default=PUBLISH, help="its module that publishes the model (default: %(default)r)")
    parser.add_argument("--serve", default=SERVE, help="its module that serves (default: %(default)r)")
    parser.add_argument("--prefix", default="SOSTENUTO", help="of its environment variables (default: %(default)s)")
    options = parser.parse_args()
    started, results = time.time(), dict[str, Comparison]()
    with contextlib.ExitStack() as stack:
        ours = _start(stack, None, PUBLISH, SERVE, "SOSTENUTO", PRECISION=options.precision)
        other = _start(stack, options.checkout.resolve(), options.publish, options.serve, options.prefix)
        for port in (ours, other):
            run_load(port, BODY, concurrency=8, num_requests=32)
        for number in each_round(options.rounds):
            for streams, num_requests in NUM_REQUESTS.items():
                ports = (ours, other) if number % 2 else (other, ours)
                loads = {p: run_load(p, BODY, concurrency=streams, num_requests=num_requests) for p in ports}
                measured, baseline = _measure(loads[ours]), _measure(loads[other])
                for metric, value in measured.items():
                    name = f"{streams} streams: {metric}"
                    results.setdefault(name, Comparison(name)).add(value, baseline[metric])
    setup = f"{PROMPT_LENGTH} prompt tokens and {NEW_TOKENS} completion tokens, precision {options.precision}"
    print_heading(f"this revision over {options.checkout}, LSTM of {UNITS} units, {setup}", options.rounds)
    rows = [each.row(",.0f" if "tokens/s" in each.name else ",.1f") for each in results.values()]
    print_table(("", "this", "other", "ratio"), rows)
    write_results("stacks-", started, results=[asdict(each) for each in results.values()])


def _measure(load: Load) -> dict[str, float]:
    """Return throughput and time to first token."""
    return {"tokens/s": load.tokens_per_s, "time to first token, p50, ms": load.first_ms(0.5)}


def _start(
    stack: contextlib.ExitStack, checkout: Path | None, publish: str, serve: str, prefix: str, **settings: str
) -> int:
    """Publish the fixture model and serve it, both by a checkout; return the port of its gateway."""
    models, port = stack.enter_context(tempfile.TemporaryDirectory()), free_port()
    with child(*publish.replace("MODELS", models).split(), checkout=checkout) as publisher:
        publisher.communicate()
    if publisher.returncode:
        raise SystemExit(f"error: {publish} of {checkout or 'this checkout'} exited with {publisher.returncode}")
    values = {"PORT": str(port), "MODELS_DIR": models, "METRICS_PORT": "0", "PREFIX_CACHE_BYTES": "0", **settings}
    variables: dict[str, Any] = {f"{prefix}_{name}": value for name, value in values.items()}
    process = stack.enter_context(child(*serve.split(), checkout=checkout, **variables))
    wait_for(port, "/readyz", process)
    return port


if __name__ == "__main__":
    main()
