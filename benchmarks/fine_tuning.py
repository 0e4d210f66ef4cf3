"""`python -m benchmarks.fine_tuning TEXT… --base NAME --old FILE`: fine-tuning against the base and training anew.

A published model of characters is fine-tuned on other texts, at several lengths, by the command. Each run is scored, as
`benchmarks.quality` does, on the unseen end of its text, and on the validation split of the old text, which shows what
was forgotten. Training anew has the architecture, the updates and the batches of the fine-tuning.

The texts of the history: Bierce's *The Devil's Dictionary* of Debian's package `dict-devil`, from "ABASEMENT, n." on;
with `--documents lines` the surnames of `names==0.3.0` on PyPI (`dist.all.last`), shuffled, and the access log of
Python's `http.server` for requests for the files of this checkout.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.quality import score, split
from benchmarks.report import machine, print_table, write_results
from export.child_process import EXPORT, environment, train_options
from export.config import FINE_TUNING_RECIPE, architecture_of
from export.corpora.corpus import read_corpus
from export.repository.history import read_history
from export.training.base_version import BaseVersion

# Characters at the end of each text that no run is trained on.
UNSEEN = 30_000
SIZES = (10_000, 50_000, 300_000)
# That of the recipes which train from nothing.
ANEW_RATE = 4e-3
KINDS = ("base", "anew", "fine-tuned", "mixed")
NO_LIMIT = 10_000.0  # minutes: epochs and early stopping end a run
COLUMNS = ("text", "characters", "run", "nats/character", "on the old text", "best epoch", "seconds")


@dataclass(frozen=True)
class Outcome:
    """Losses of a run in nats per character: on the unseen end, and on the old text, unless it was trained anew."""

    text: str
    characters: int
    run: str
    loss: float
    old_loss: float | None
    losses: tuple[float, ...]  # after each epoch
    seconds: float

    def row(self) -> tuple[str, ...]:
        best = f"{self.losses.index(min(self.losses)) + 1} of {len(self.losses)}"
        old = "–" if self.old_loss is None else f"{self.old_loss:.3f}"
        return self.text, f"{self.characters:,}", self.run, f"{self.loss:.3f}", old, best, f"{self.seconds:.0f}"


class Bench:
    """Trains and scores, in a temporary repository that has the base, too."""

    def __init__(self, directory: Path, base: BaseVersion, options: argparse.Namespace) -> None:
        self._directory, self._base, self._options = directory, base, options
        self._old = split(options.old, "none", 0)[1]
        (directory / "models").mkdir()
        home = base.version.path.parent
        (directory / "models" / home.name).symlink_to(home.resolve())

    def runs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the name of each run, and its settings."""
        kinds, options = self._options.kinds, self._options
        base = {"from": self._base.version.label}
        if "base" in kinds:
            # With the new characters in its vocabulary, as in the other runs, and weights that hardly change.
            yield "base", {**base, "learning_rate": 1e-9, "epochs": 1}
        if "anew" in kinds:
            architecture = {**architecture_of(self._base.card), "config": FINE_TUNING_RECIPE}
            yield f"anew, {ANEW_RATE:g}", {**architecture, "learning_rate": ANEW_RATE}
        for rate in options.rates:
            if "fine-tuned" in kinds:
                yield f"fine-tuned, {rate:g}", {**base, "learning_rate": rate}
            if "mixed" in kinds:
                yield f"fine-tuned, {rate:g}, mixed", {**base, "learning_rate": rate, "mix": str(options.old)}

    def run(self, text: Path, size: int, name: str, settings: dict[str, Any]) -> Outcome:
        """Train on the first characters of a text, and score."""
        content = text.read_text(encoding="utf-8")
        seen, unseen = content[:-UNSEEN][:size], content[-UNSEEN:]
        version = self._train(seen, settings)
        end = self._directory / text.name
        end.write_text(unseen, encoding="utf-8")
        history = read_history(version).history
        # A token is a character here.
        loss, *_ = score(version, read_corpus(str(end), self._options.documents))
        old_loss = None if "config" in settings else score(version, self._old)[0]
        losses = tuple(epoch.loss for epoch in history)
        return Outcome(text.stem, len(seen), name, loss, old_loss, losses, history[-1].seconds)

    def _train(self, content: str, settings: dict[str, Any]) -> Path:
        corpus, models, options = self._directory / "part.txt", self._directory / "models", self._options
        corpus.write_text(content, encoding="utf-8")
        own = {"name": "bench", "documents": options.documents, "min_characters": 0, "seed": options.seed}
        paths = {"models_dir": models, "runs_dir": self._directory / "runs"}
        limits = {"max_minutes": NO_LIMIT, "epochs": options.epochs}
        words = train_options({**own, **paths, **limits, **settings})
        subprocess.run([*EXPORT, "train", str(corpus), *words], check=True, env=environment(), stdout=sys.stderr)
        return max((models / "bench").glob("[0-9]*"), key=lambda path: int(path.name))


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fine_tuning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT")
    parser.add_argument("--base", required=True, metavar="NAME[:VERSION]", help="published model of characters")
    parser.add_argument("--old", required=True, type=Path, help="the text that it was trained on")
    parser.add_argument("--documents", choices=["none", "lines"], default="none", help="of the texts (default: none)")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="model repository (default: models)")
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="characters to train on")
    parser.add_argument("--rates", nargs="*", type=float, default=[5e-4, 2e-3], help="learning rates")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS, help="kinds of runs")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started, outcomes = time.time(), list[Outcome]()
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), BaseVersion.find(options.base, options.models_dir), options)
        for text in options.texts:
            for size in options.sizes:
                for name, settings in bench.runs():
                    outcomes.append(bench.run(text, size, name, settings))
                    print(*outcomes[-1].row(), file=sys.stderr, flush=True)
    print(f"{machine()}\n")
    print_table(COLUMNS, [outcome.row() for outcome in outcomes])
    write_results("fine-tuning-", started, outcomes=outcomes)


if __name__ == "__main__":
    main()
