"""Files of a version for people: README, training history with a plot, and the embedding.

The embedding is in the format of TensorFlow's Embedding Projector, https://projector.tensorflow.org: vectors and their
labels, both as TSV. It skips blank lines and splits at tabs, so labels contain only visible characters.
"""

import json
from pathlib import Path

import numpy as np

from contract import signatures
from contract.card import GeneratorCard
from contract.signatures import ASSETS
from contract.tokenizers import Tokenizer
from export.repository.history import HISTORY_FILE, Progress, perplexity
from export.repository.plots import history_png
from export.repository.readme import write_readme

README_FILE = "README.md"
PICTURE_FILE = "history.png"
METADATA_FILE = "metadata.tsv"
# A larger embedding is truncated to its first vectors, in most vocabularies those of the most frequent tokens. 4
# million numbers are some 40 MB.
MAX_NUMBERS = 4_000_000
_SPACE = "␣"


def write_artifacts(
    folder: Path, card: GeneratorCard, tokenizer: Tokenizer, vectors: np.ndarray | None, history: Progress
) -> None:
    """Write all files into a version that is not visible yet; its `assets.extra` exists.

    Without epochs, no history files are written. The vectors are the embedding, float32 (ids, width); None if there is
    none or it is unknown.

    Raises:
        PublishError: the plot cannot be drawn.
        OSError: a file cannot be written.
    """
    assets = folder / ASSETS
    if history.epochs:
        (assets / HISTORY_FILE).write_text(history_json(history), encoding="utf-8")
        (assets / PICTURE_FILE).write_bytes(history_png(history, card.name))
    num_vectors = 0 if vectors is None else _write_embedding(assets, tokenizer, vectors)
    files = {path.name for path in assets.iterdir()}
    readme = write_readme(card, len(tokenizer.tokens), history, files, num_vectors)
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


def _write_embedding(assets: Path, tokenizer: Tokenizer, vectors: np.ndarray) -> int:
    """Write a vector and a label per token, within the limit, and return how many."""
    count = min(len(tokenizer.tokens), len(vectors), max(1, MAX_NUMBERS // vectors.shape[1]))
    with (assets / signatures.VECTORS_FILE).open("w", encoding="utf-8") as file:
        for vector in vectors[:count]:
            file.write("\t".join([f"{value:.7g}" for value in vector.tolist()]) + "\n")
    labels = [visible_label(tokenizer.detokenizer().label(token_id)) for token_id in range(count)]
    (assets / METADATA_FILE).write_text("".join([f"{label}\n" for label in labels]), encoding="utf-8")
    return count


def visible_label(label: str) -> str:
    r"""Make all characters of a label visible: a space becomes ␣, other white space and control characters are escaped.

    A label made of bytes, such as `bytes:\xe2\x82`, keeps its backslashes.
    """
    if label.startswith("bytes:") and label.isascii() and label.isprintable():
        return label.replace(" ", _SPACE)
    return "".join(map(_visible_character, label))


def _visible_character(character: str) -> str:
    if character == " ":
        return _SPACE
    is_clear = character.isprintable() and character not in (_SPACE, "\\")
    return character if is_clear else character.encode("unicode_escape").decode()
