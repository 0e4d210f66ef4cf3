"""One model with labels for several lists, against one model for each list and one for all without labels.

Every file of the directory is a list, with a record on each line; its name is the label. A tenth of each list is held
out; the losses are on that, in nats per character with the end token. All models have the same settings and as many
epochs, of which the best one counts: for a list's own model by its held-out records, for the others by all of them.

    python -m benchmarks.labels lists/ --units 128 --epochs 40
"""

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import machine, print_table, write_results

# Records of a list: those to train on, and those that are held out.
Lists = dict[str, tuple[list[str], list[str]]]


def read_lists(directory: Path) -> Lists:
    """Read the lists, in the order of their names."""
    lists: Lists = {}
    for path in sorted(directory.glob("*.txt")):
        records = sorted(set(path.read_text(encoding="utf-8").splitlines()) - {""})
        random.Random(0).shuffle(records)
        num_held_out = len(records) // 10
        lists[path.stem] = records[num_held_out:], records[:num_held_out]
    return lists


class Bench:
    """Trains models by the exporter, in a temporary directory, and evaluates them."""

    def __init__(self, lists: Lists, directory: Path, settings: Mapping[str, Any]) -> None:
        self.lists, self.directory, self.settings = lists, directory, settings

    def run(self, name: str, lists: Sequence[str], **settings: Any) -> dict[str, Any]:
        """Train one model on some lists; return its size and the loss of each list."""
        from export.config import load_config  # noqa: PLC0415 - this module must start without TensorFlow
        from export.training.runs import RunFolder  # noqa: PLC0415
        from export.training.workflow import train  # noqa: PLC0415

        corpus = self._write(name, {each: self.lists[each][0] for each in lists})
        held_out = self._write(f"{name}-held-out", {each: self.lists[each][1] for each in lists})
        own = {"corpus": str(corpus), "validation_corpus": str(held_out), "documents": "records", "min_characters": 0}
        config = load_config(None, {**own, **self.settings, **settings, "name": name})
        train(config, self.directory / "models", self.directory / "runs")
        version, folder = self.directory / "models" / name / "1", RunFolder(self.directory / "runs" / name)
        loaded = folder.load_best(folder.progress())
        return {
            "name": name,
            "parameters": loaded.count_params(),
            "bytes": sum(path.stat().st_size for path in version.rglob("*") if path.is_file()),
            "losses": {each: self._loss(loaded, folder, each) for each in lists},
        }

    def _write(self, name: str, lists: Mapping[str, Sequence[str]]) -> Path:
        path = self.directory / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "list"])
            writer.writerows([record, each] for each, records in lists.items() for record in records)
        return path

    def _loss(self, model: Any, folder: Any, name: str) -> float:
        """Return the loss of a list's held-out records."""
        from export.corpora.corpus import read_corpus  # noqa: PLC0415
        from export.training.dataset import Dataset  # noqa: PLC0415
        from export.training.devices import Devices  # noqa: PLC0415
        from export.training.optimization import Optimization  # noqa: PLC0415

        config, tokenizer, described = folder.load()
        path = self._write("evaluated", {name: self.lists[name][1]})
        held_out = read_corpus(str(path), "records", label_columns=config.label_column or ())
        dataset = Dataset.lay_out(held_out, held_out, tokenizer, config, columns=described.label_columns)
        optimization, split = Optimization(config, model, Devices(), tokenizer.special), dataset.validation
        assert split is not None
        states, total = optimization.zero_states(split.batch_size), 0.0
        for inputs, targets in split.batches():
            loss, _, states = optimization.evaluate(inputs, targets, states)
            total += loss
        return total / dataset.num_evaluated


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate, print the table and write the results as JSON."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.labels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, help="files NAME.txt, with a record on each line")
    parser.add_argument("--units", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    lists, started = read_lists(options.directory), time.time()
    settings = {"units": options.units, "epochs": options.epochs, "seed": options.seed, "dropout": 0.3}
    settings |= {"embedding": 32, "batch_size": 16, "sequence_length": 60}
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(lists, Path(directory), settings)
        labelled = bench.run("labels", [*lists], label_column=("list",))
        joint = bench.run("joint", [*lists])
        own = {name: bench.run(name, [name]) for name in lists}
    rows = [
        [name, f"{len(records):,}", *(f"{each['losses'][name]:.3f}" for each in (labelled, joint, own[name]))]
        for name, (records, _) in lists.items()
    ]
    sizes = [each["bytes"] / 1e6 for each in (labelled, joint)] + [sum(each["bytes"] for each in own.values()) / 1e6]
    parameters = [each["parameters"] for each in (labelled, joint)] + [sum(each["parameters"] for each in own.values())]
    rows.append(["megabytes", "", *(f"{size:.2f}" for size in sizes)])
    rows.append(["parameters", "", *(f"{count:,}" for count in parameters)])
    print(f"{machine()}\n")
    print_table(["list", "records", "one model with labels", "one without", "a model each"], rows)
    write_results("labels-", started, settings=settings, labelled=labelled, joint=joint, own=own)


if __name__ == "__main__":
    main()
