"""`python -m benchmarks.training`: training throughput, as a ratio to PyTorch and Keras in the same run."""

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.competitors.trainings import BATCH_SIZE, EMBEDDING, SEQUENCE_LENGTH, VOCABULARY
from benchmarks.report import Comparison, print_heading, print_table, write_results
from benchmarks.servers import start_measurement

UNITS = (256, 512, 1024)


@dataclass(frozen=True)
class Pair:
    """A training run and its baseline."""

    cell: str
    units: int
    baseline: str = "torch"  # or "keras"
    ours: str = "float32"  # precision
    theirs: str = "float32"

    @property
    def name(self) -> str:
        kinds = {"torch": {"lstm": "nn.LSTM", "gru": "nn.GRU"}[self.cell], "keras": "Keras's layer, no state carried"}
        precisions = self.ours if self.ours == self.theirs else f"{self.ours}, baseline {self.theirs}"
        return f"{self.cell}, {self.units} units, {precisions}, over {kinds[self.baseline]}"


PAIRS = (
    *(Pair(cell, units) for cell in ("lstm", "gru") for units in UNITS),
    *(Pair("lstm", units, ours="bfloat16", theirs="bfloat16") for units in UNITS),
    *(Pair(cell, 512, ours="bfloat16") for cell in ("lstm", "gru")),
    *(Pair(cell, 512, "keras") for cell in ("lstm", "gru")),
)


def measure(pair: Pair, rounds: int, seconds: float) -> Comparison:
    """Train both in alternation, each in its own process, which is idle while the other trains."""
    comparison = Comparison(pair.name)
    with contextlib.ExitStack() as stack:

        def start(kind: str, precision: str) -> Callable[..., float]:
            settings = ["--cell", pair.cell, "--units", str(pair.units), "--precision", precision]
            return start_measurement(stack, "benchmarks.competitors.trainings", kind, *settings)

        ours, baseline = start("sostenuto", pair.ours), start(pair.baseline, pair.theirs)
        for warm_up in (ours, baseline):
            warm_up(seconds=1.0)
        for _ in range(rounds):
            comparison.add(ours(seconds=seconds), baseline(seconds=seconds))
    return comparison


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="five rounds of 2 s instead of nine of 4 s")
    rounds, seconds = (5, 2.0) if parser.parse_args().quick else (9, 4.0)
    started, comparisons = time.time(), []
    for number, pair in enumerate(PAIRS):
        print(f"{number + 1} of {len(PAIRS)}: {pair.name}", file=sys.stderr, flush=True)
        comparisons.append(measure(pair, rounds, seconds))
    sizes = f"vocabulary {VOCABULARY}, batch size {BATCH_SIZE}, sequence length {SEQUENCE_LENGTH}"
    print_heading(f"whole updates with AdamW and clipping, embedding {EMBEDDING}, {sizes}", rounds)
    print_table(("training", "tokens/s", "baseline tokens/s", "ratio"), [each.row() for each in comparisons])
    print()
    write_results("training-", started, comparisons=[asdict(comparison) for comparison in comparisons])


if __name__ == "__main__":
    main()
