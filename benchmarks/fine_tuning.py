"""`python -m benchmarks.fine_tuning --base NAME --old FILE`: fine-tuning against the base and against training anew.

A published model is fine-tuned on other kinds of text, at several lengths; each run is scored on the unseen end of
its text, and on the validation split of the old text, which shows what was forgotten. Training anew has the
architecture, the updates and the batches of the fine-tuning, and the learning rate of the other recipes. The texts:

- prose: Bierce's *The Devil's Dictionary*, of Debian's package `dict-devil` (`--dictionary`: its file `devil.dict.dz`);
- names: surnames of the census of the United States, of the package `names` on PyPI (`pip install names==0.3.0`);
- log: the access log of Python's `http.server` for requests for the files of this checkout.
"""

import argparse
import gzip
import http.client
import importlib.util
import io
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.report import machine, print_table, write_results

ROOT = Path(__file__).parents[1]
DICTIONARY = Path("/usr/share/dictd/devil.dict.dz")
# Characters at the end of each text that no run is trained on.
UNSEEN = 30_000
SIZES = (10_000, 50_000, 300_000)
# That of the recipes which train from nothing.
ANEW_RATE = 4e-3
KINDS = ("base", "anew", "fine-tuned", "mixed")


@dataclass(frozen=True)
class Text:
    """A text to fine-tune on; its documents are lines or it has none."""

    name: str
    content: str
    documents: str

    def part(self, size: int) -> str:
        """Return its first characters, without those that every run is scored on."""
        return self.content[: min(size, len(self.content) - UNSEEN)]

    @property
    def unseen(self) -> str:
        """The end that every run is scored on."""
        return self.content[-UNSEEN:]


@dataclass(frozen=True)
class Outcome:
    """Losses of a run in nats per character; of a run without updates, those of the base.

    Attributes:
        loss: On the unseen end of the text.
        old_loss: On the validation split of the old text; None if it was trained anew.
        losses: Validation loss after each epoch.
    """

    text: str
    characters: int
    run: str
    loss: float
    old_loss: float | None
    best_epoch: int
    losses: tuple[float, ...]
    seconds: float

    def row(self) -> tuple[str, ...]:
        of = f"{self.best_epoch} of {len(self.losses)}" if self.losses else "–"
        old = "–" if self.old_loss is None else f"{self.old_loss:.3f}"
        return self.text, f"{self.characters:,}", self.run, f"{self.loss:.3f}", old, of, f"{self.seconds:.0f}"


COLUMNS = ("text", "characters", "run", "nats/character", "on the old text", "best epoch", "seconds")


def read_prose(path: Path) -> str:
    """Return the dictionary without its preface."""
    text = gzip.decompress(path.read_bytes()).decode("latin-1").replace("\r", "")
    return text[text.index("ABASEMENT, n.") :]


def read_names() -> str:
    """Return surnames in random order, a line each."""
    package = importlib.util.find_spec("names")
    if package is None or package.origin is None:
        raise SystemExit("error: the package names is not installed; install it with: pip install names==0.3.0")
    lines = Path(package.origin).with_name("dist.all.last").read_text().splitlines()
    names = [line.split()[0].capitalize() for line in lines if line]
    random.Random(0).shuffle(names)
    return "\n".join(names) + "\n"


def make_log(num_characters: int) -> str:
    """Return the access log of a web server that serves this checkout, a line per request."""
    rng, log = random.Random(0), io.StringIO()
    paths = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/**/*.*")) if path.is_file()]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=ROOT))
    with server, redirect_stderr(log):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while log.tell() < num_characters:
            path = rng.choice(paths) + rng.choice(["", "", "", "?v=1", "~"])
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request(rng.choice(["GET", "GET", "HEAD", "POST"]), f"/{path}")
            connection.getresponse().read()
            connection.close()
        server.shutdown()
    return log.getvalue()


class Bench:
    """Trains and scores, in this process."""

    def __init__(self, base: str, models_dir: Path, old: Path, settings: dict[str, Any]) -> None:
        from export.corpora.corpus import read_corpus  # noqa: PLC0415 - this module must start without TensorFlow
        from export.training.base_version import BaseVersion  # noqa: PLC0415
        from export.training.devices import Devices  # noqa: PLC0415

        self.base, self.old, self.settings = BaseVersion.find(base, models_dir), old, settings
        # As in a training by the command.
        self.devices = Devices.find(32, self.base.card.units)
        self._old_text = read_corpus(str(old)).split(0.1, 0)[1]

    def run(self, text: Text, size: int, name: str, **settings: Any) -> Outcome:
        from export.corpora.corpus import Corpus  # noqa: PLC0415
        from export.training.initial_weights import initial_weights  # noqa: PLC0415
        from export.vocabulary import train_tokenizer  # noqa: PLC0415

        is_anew = settings.pop("anew", False)
        config = self._config(text, settings)
        corpus = Corpus.of(text.name, self._documents(text, text.part(size)), ends=text.documents == "lines")
        head, tail = corpus.split(config.validation, config.seed)
        tokenizer = train_tokenizer(config, head) if is_anew else self.base.extended_tokenizer(head)
        weights = None if is_anew else initial_weights(config, tokenizer, self.base)
        started = time.perf_counter()
        model, losses = self._train(config, head, tail, tokenizer, weights)
        seconds = time.perf_counter() - started
        unseen = Corpus.of(text.name, self._documents(text, text.unseen), ends=corpus.ends)
        return Outcome(
            text.name,
            len(text.part(size)),
            name,
            _loss(model, unseen, tokenizer),
            None if is_anew else _loss(model, self._old_text, tokenizer),
            losses.index(min(losses)) + 1 if losses else 0,
            losses,
            seconds,
        )

    def _config(self, text: Text, settings: dict[str, Any]) -> Any:
        from export.config import FINE_TUNING_RECIPE, load_config, recipe_path  # noqa: PLC0415

        given = {"corpus": text.name, "name": "bench", "from": "base", "documents": text.documents}
        config = load_config(recipe_path(FINE_TUNING_RECIPE), {**given, **self.settings, **settings})
        return self.base.complete(config)

    @staticmethod
    def _documents(text: Text, content: str) -> list[str]:
        return content.splitlines() if text.documents == "lines" else [content]

    def _train(self, config: Any, head: Any, tail: Any, tokenizer: Any, weights: Any) -> tuple[Any, tuple[float, ...]]:
        """Return the model of the best epoch, and the validation losses; without epochs the model as it starts."""
        from export.corpora.corpus import read_corpus  # noqa: PLC0415
        from export.training.dataset import Dataset  # noqa: PLC0415
        from export.training.model import build_model  # noqa: PLC0415
        from export.training.runs import RunFolder  # noqa: PLC0415
        from export.training.trainer import Trainer  # noqa: PLC0415

        model = build_model(config, len(tokenizer.tokens))
        if weights is not None:
            model.set_weights(weights)
        if config.learning_rate < 1e-8:
            return model, ()
        mixed = read_corpus(config.mix, config.documents) if config.mix else None
        dataset = Dataset.lay_out(head, tail, tokenizer, config, mixed)
        with tempfile.TemporaryDirectory() as directory:
            folder = RunFolder(Path(directory) / "run")
            folder.create(config, tokenizer, dataset.describe(head))
            progress = Trainer(config, model, dataset, devices=self.devices).run(folder)
            return folder.load_best(progress), tuple(epoch.loss for epoch in progress.history)


def _loss(model: Any, text: Any, tokenizer: Any) -> float:
    """Return the loss of a text in nats per character; unknown characters are not counted."""
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from export.corpora.encoder import encode_corpus  # noqa: PLC0415
    from export.training.dataset import Sequences  # noqa: PLC0415
    from export.training.model import forward, zero_states  # noqa: PLC0415

    unknown = tokenizer.special.unknown
    split = Sequences.for_validation(encode_corpus(text, tokenizer), tokenizer.special.start, 100, unknown)
    states, total, count = zero_states(model, split.batch_size), 0.0, 0
    for inputs, targets in split.batches():
        (logits,), states = forward(model, tf.constant(inputs), states, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits).numpy()
        total, count = total + float(losses[targets != unknown].sum()), count + int(np.sum(targets != unknown))
    return total / count


def runs(kinds: Sequence[str], rates: Sequence[float], old: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each run of some kinds, and its settings."""
    if "base" in kinds:
        yield "base", {"learning_rate": 1e-9}
    if "anew" in kinds:
        yield f"anew, {ANEW_RATE:g}", {"learning_rate": ANEW_RATE, "anew": True}
    for rate in rates:
        if "fine-tuned" in kinds:
            yield f"fine-tuned, {rate:g}", {"learning_rate": rate}
        if "mixed" in kinds:
            yield f"fine-tuned, {rate:g}, mixed", {"learning_rate": rate, "mix": str(old)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fine_tuning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, metavar="NAME[:VERSION]", help="published model of characters")
    parser.add_argument("--old", required=True, type=Path, help="the text that it was trained on")
    parser.add_argument("--models-dir", type=Path, default=Path("models"), help="model repository (default: models)")
    parser.add_argument("--dictionary", type=Path, default=DICTIONARY, help=f"default: {DICTIONARY}")
    parser.add_argument("--texts", nargs="*", default=["prose", "names", "log"])
    parser.add_argument("--sizes", nargs="*", type=int, default=SIZES, help="characters to train on")
    parser.add_argument("--rates", nargs="*", type=float, default=[5e-4, 2e-3], help="learning rates")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS, help="kinds of runs")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    started, outcomes = time.time(), list[Outcome]()
    sources = {"prose": lambda: read_prose(options.dictionary), "names": read_names}
    sources["log"] = lambda: make_log(max(options.sizes) + UNSEEN)
    settings = {"seed": options.seed, "max_minutes": None, **({"epochs": options.epochs} if options.epochs else {})}
    bench = Bench(options.base, options.models_dir, options.old, settings)
    for name in options.texts:
        text = Text(name, sources[name](), "none" if name == "prose" else "lines")
        for size in options.sizes:
            for run, own in runs(options.kinds, options.rates, options.old):
                outcomes.append(bench.run(text, size, run, **own))
                print(
                    *outcomes[-1].row(), *(f"{loss:.3f}" for loss in outcomes[-1].losses), file=sys.stderr, flush=True
                )
    print(f"{machine()}\n")
    print_table(COLUMNS, [outcome.row() for outcome in outcomes])
    write_results("fine-tuning-", started, outcomes=[asdict(outcome) for outcome in outcomes])


if __name__ == "__main__":
    main()
