"""Page, history, plot and embedding of a version are written to their paths."""

import json

import numpy as np
import pytest

from contract.card import GeneratorCard
from contract.tokenizer import CharacterTokenizer
from export.repository.artifacts import write_artifacts
from export.repository.history import Epoch, Progress

TOKENIZER = CharacterTokenizer.train("ab")
VECTORS = np.arange(15, dtype=np.float32).reshape(5, 3)
CARD = GeneratorCard(
    name="m",
    cell="gru",
    layers=1,
    units=4,
    embedding=3,
    state_size=4,
    vocab_size=5,
    unit="character",
    weights_sha256="",
    code_sha256="",
    tensorflow="",
    created=0,
    traces=(("hidden", 1, 4),),
)
HISTORY = Progress(
    history=(
        Epoch(train_loss=1.0, validation_loss=2.0, accuracy=0.5, tokens=10, seconds=1.5),
        Epoch(train_loss=0.5, validation_loss=1000.0, accuracy=0.25, tokens=20, seconds=3.0),
    )
)


def written(folder, vectors, history):
    """Write the artifacts into a version's directory, and return its files' contents by relative path."""
    (folder / "assets.extra").mkdir()
    write_artifacts(folder, CARD, TOKENIZER, vectors, history)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_trained_version_has_a_page_its_history_and_its_embedding(tmp_path):
    """The page is at the root, where people and model hubs look for it."""
    files = written(tmp_path, VECTORS, HISTORY)
    names = ["history.json", "history.png", "metadata.tsv", "vectors.tsv"]
    assert sorted(files) == ["README.md", *(f"assets.extra/{name}" for name in names)]
    assert files["README.md"].startswith(b"# `m`\n")
    assert all(name.encode() in files["README.md"] for name in names)
    assert files["assets.extra/history.png"].startswith(b"\x89PNG")
    assert files["assets.extra/metadata.tsv"] == b"<pad>\n<unk>\n<start>\na\nb\n"
    assert files["assets.extra/vectors.tsv"].startswith(b"0\t1\t2\n3\t4\t5\n")


def test_the_history_has_an_entry_for_each_epoch(tmp_path):
    """It has perplexities, null where JSON has no number for them, and marks the best epoch."""
    first, second = json.loads(written(tmp_path, None, HISTORY)["assets.extra/history.json"])
    assert first.pop("train_perplexity") == pytest.approx(np.e)
    assert first.pop("validation_perplexity") == pytest.approx(np.e**2)
    losses = {"train_loss": 1.0, "validation_loss": 2.0, "accuracy": 0.5}
    assert first == {"epoch": 1, "best": True, **losses, "tokens": 10, "seconds": 1.5}
    assert (second["epoch"], second["best"], second["validation_perplexity"]) == (2, False, None)


def test_an_imported_model_may_have_a_page_only(tmp_path):
    """The page mentions no file that is absent."""
    (page,) = written(tmp_path, None, Progress()).values()
    assert b"history" not in page
    assert b"projector" not in page
