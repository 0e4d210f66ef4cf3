"""`python -m benchmarks.training`: training throughput, as a ratio to PyTorch and Keras in the same run."""

import argparse
import contextlib
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.__main__ import child, machine, requester, spread, write_results
from benchmarks.training_baselines import BATCH_SIZE, EMBEDDING, SEQUENCE_LENGTH, VOCABULARY

UNITS = (256, 512, 1024)


@dataclass(frozen=True)
class Pair:
    """A training and its baseline.

    Attributes:
        baseline: "torch" or "keras".
        ours: Precision of our training.
        theirs: Precision of the baseline.
    """

    cell: str
    units: int
    baseline: str = "torch"
    ours: str = "float32"
    theirs: str = "float32"

    @property
    def name(self) -> str:
        """The name in the table."""
        kinds = {"torch": {"lstm": "nn.LSTM", "gru": "nn.GRU"}[self.cell], "keras": "Keras's layer, no state carried"}
        precisions = self.ours if self.ours == self.theirs else f"{self.ours}, baseline {self.theirs}"
        return f"{self.cell}, {self.units} units, {precisions}, over {kinds[self.baseline]}"


PAIRS = (
    *(Pair(cell, units) for cell in ("lstm", "gru") for units in UNITS),
    *(Pair("lstm", units, ours="bfloat16", theirs="bfloat16") for units in UNITS),
    *(Pair(cell, 512, ours="bfloat16") for cell in ("lstm", "gru")),
    *(Pair(cell, 512, "keras") for cell in ("lstm", "gru")),
)


@dataclass
class Comparison:
    """Tokens per second of both, one per round."""

    pair: Pair
    ours: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)

    def row(self) -> str:
        """Return a row of the table: medians, and the range of the ratio."""
        ratios = [ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)]
        ours, baseline = statistics.median(self.ours), statistics.median(self.baseline)
        return f"| {self.pair.name} | {ours:,.0f} | {baseline:,.0f} | {spread(ratios)} |"


def measure(pair: Pair, rounds: int, seconds: float) -> Comparison:
    """Train both in alternation, each in its own process, which is idle while the other trains."""
    comparison = Comparison(pair)
    with contextlib.ExitStack() as stack:

        def start(kind: str, precision: str) -> Any:
            settings = ["--cell", pair.cell, "--units", str(pair.units), "--precision", precision]
            return requester(stack.enter_context(child("benchmarks.training_baselines", kind, *settings)))

        ours, baseline = start("ostinato", pair.ours), start(pair.baseline, pair.theirs)
        for ask in (ours, baseline):
            ask(seconds=1.0)
        for _ in range(rounds):
            comparison.ours.append(ours(seconds=seconds))
            comparison.baseline.append(baseline(seconds=seconds))
    return comparison


def main() -> None:
    """Measure, print a table and write the results as JSON."""
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five rounds of 2 s instead of nine of 4 s")
    options = parser.parse_args()
    rounds, seconds = (5, 2.0) if options.quick else (9, 4.0)
    started, comparisons = time.time(), []
    for number, pair in enumerate(PAIRS):
        print(f"{number + 1} of {len(PAIRS)}: {pair.name}", file=sys.stderr, flush=True)
        comparisons.append(measure(pair, rounds, seconds))
    print(f"\n{machine()}; whole updates with AdamW and clipping, embedding {EMBEDDING}, vocabulary {VOCABULARY},")
    print(
        f"{BATCH_SIZE} streams × {SEQUENCE_LENGTH} steps; medians of {rounds} rounds, the ratio's range in brackets\n"
    )
    print("| training | tokens/s | baseline tokens/s | ratio |\n|---|---|---|---|")
    for comparison in comparisons:
        print(comparison.row())
    print()
    write_results("training-", started, comparisons=[asdict(comparison) for comparison in comparisons])


if __name__ == "__main__":
    main()
