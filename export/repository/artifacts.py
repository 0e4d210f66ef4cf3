"""Human-readable files of a version: README, history of the training with a plot, and the embedding.

Knows the names and paths of the files. `readme`, `plots` and `projector` produce their contents.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from contract import signatures
from contract.card import GeneratorCard
from contract.signatures import ASSETS
from contract.tokenizer import Tokenizer
from export.repository.history import HISTORY_FILE, Progress, perplexity
from export.repository.plots import history_png
from export.repository.projector import label_lines, num_vectors, vector_lines
from export.repository.readme import write_readme

README_FILE = "README.md"
PICTURE_FILE = "history.png"
METADATA_FILE = "metadata.tsv"


def write_artifacts(
    folder: Path, card: GeneratorCard, tokenizer: Tokenizer, vectors: np.ndarray | None, history: Progress
) -> None:
    """Write all files into a version that is not visible yet; its `assets.extra` exists.

    Without epochs, history files are not written. The vectors are the embedding, float32 (ids, width); None if the
    model has none or it is unknown.

    Raises:
        PublishError: the plot cannot be drawn.
        OSError: a file cannot be written.
    """
    assets = folder / ASSETS
    if history.epochs:
        (assets / HISTORY_FILE).write_text(history_json(history), encoding="utf-8")
        (assets / PICTURE_FILE).write_bytes(history_png(history, card.name))
    if vectors is not None:
        _write_lines(assets / signatures.VECTORS_FILE, vector_lines(tokenizer, vectors))
        _write_lines(assets / METADATA_FILE, label_lines(tokenizer, vectors))
    files = {path.name for path in assets.iterdir()}
    num_lines = 0 if vectors is None else num_vectors(tokenizer, vectors)
    readme = write_readme(card, len(tokenizer.tokens), history, files, num_lines)
    (folder / README_FILE).write_text(readme, encoding="utf-8")


def history_json(history: Progress) -> str:
    """Return a JSON list of epochs: the fields of `Epoch`, its perplexities, and whether it is the best.

    A perplexity that overflows is null.
    """
    entries = []
    for number, epoch in enumerate(history.history, start=1):
        perplexities = {
            "train_perplexity": perplexity(epoch.train_loss),
            "validation_perplexity": perplexity(epoch.validation_loss),
        }
        best = number == history.best_epoch
        entries.append({"epoch": number, "best": best, **epoch.model_dump(), **perplexities})
    return json.dumps(entries, indent=1) + "\n"


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(lines)
