"""`python -m benchmarks.training`: training throughput, as a ratio to PyTorch and Keras in the same run.

With `--checkout DIRECTORY`, as a ratio to that of another checkout of the project.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.competitors.trainings import BATCH_SIZE, EMBEDDING, SEQUENCE_LENGTH, VOCABULARY
from benchmarks.report import Comparison, print_heading, print_table, write_results
from benchmarks.servers import start_measurement

UNITS = (256, 512, 1024)


@dataclass(frozen=True)
class Pair:
    """A training run and its baseline."""

    cell: str
    units: int
    baseline: str = "torch"  # or "keras", or "sostenuto": the other checkout
    ours: str = "float32"  # precision
    theirs: str = "float32"

    @property
    def name(self) -> str:
        kinds = {
            "torch": {"lstm": "nn.LSTM", "gru": "nn.GRU"}[self.cell],
            "keras": "Keras's layer, no state carried",
            "sostenuto": "the other checkout",
        }
        precisions = self.ours if self.ours == self.theirs else f"{self.ours}, baseline {self.theirs}"
        return f"{self.cell}, {self.units} units, {precisions}, over {kinds[self.baseline]}"


PAIRS = (
    *(Pair(cell, units) for cell in ("lstm", "gru") for units in UNITS),
    *(Pair(cell, units, ours="bfloat16", theirs="bfloat16") for cell in ("lstm", "gru") for units in UNITS),
    *(Pair(cell, 512, ours="bfloat16") for cell in ("lstm", "gru")),
    *(Pair(cell, 512, "keras") for cell in ("lstm", "gru")),
)
REVISION_PAIRS = tuple(
    Pair(cell, units, "sostenuto", precision, precision)
    for precision in ("float32", "bfloat16")
    for cell in ("lstm", "gru")
    for units in UNITS
)


def measure(pair: Pair, rounds: int, seconds: float, checkout: Path | None = None) -> Comparison:
    """Train both in alternation, each in its own process, which is idle while the other trains."""
    comparison = Comparison(pair.name)
    with contextlib.ExitStack() as stack:

        def start(kind: str, precision: str, checkout: Path | None = None) -> Callable[..., float]:
            settings = ["--cell", pair.cell, "--units", str(pair.units), "--precision", precision]
            return start_measurement(stack, "benchmarks.competitors.trainings", kind, *settings, checkout=checkout)

        ours, baseline = start("sostenuto", pair.ours), start(pair.baseline, pair.theirs, checkout)
        for warm_up in (ours, baseline):
            warm_up(seconds=1.0)
        for _ in range(rounds):
            comparison.add(ours(seconds=seconds), baseline(seconds=seconds))
    return comparison


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five rounds of 2 s instead of nine of 4 s")
    parser.add_argument("--checkout", type=Path, metavar="DIRECTORY", help="compare with another checkout's training")
    options = parser.parse_args()
    rounds, seconds = (5, 2.0) if options.quick else (9, 4.0)
    pairs = REVISION_PAIRS if options.checkout else PAIRS
    started, comparisons = time.time(), []
    for number, pair in enumerate(pairs):
        print(f"{number + 1} of {len(pairs)}: {pair.name}", file=sys.stderr, flush=True)
        comparisons.append(measure(pair, rounds, seconds, options.checkout and options.checkout.resolve()))
    sizes = f"vocabulary {VOCABULARY}, batch size {BATCH_SIZE}, sequence length {SEQUENCE_LENGTH}"
    print_heading(f"whole updates with AdamW and clipping, embedding {EMBEDDING}, {sizes}", rounds)
    print_table(("training", "tokens/s", "baseline tokens/s", "ratio"), [each.row() for each in comparisons])
    print()
    write_results("training-", started, comparisons=comparisons)


if __name__ == "__main__":
    main()
