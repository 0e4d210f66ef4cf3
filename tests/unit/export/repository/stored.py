"""Cards, and versions on disk without a graph: fast to write, for tests that never load the model."""

import json

from contract.card import GeneratorCard, TrainingReport
from contract.tokenizers import CharacterTokenizer
from export.repository.history import Epoch, Progress
from export.repository.models_config import add_to_models_config

TOKENIZER = CharacterTokenizer.train("abcdefgh")
REPORT = {
    "corpus": "book.txt",
    "corpus_sha256": "a" * 64,
    "corpus_characters": 5000,
    "held_out_characters": 500,
    "held_out": "tail",
    "held_out_sha256": "1" * 64,
    "train_tokens": 4500,
    "validation_tokens": 500,
    "validation_characters": 500,
    "epochs": 2.0,
    "train_loss": 1.5,
    "validation_loss": 2.0,
    "accuracy": 0.5,
    "bits_per_character": 2.885,
    "tokens_per_s": 1000.0,
    "seconds": 90.0,
    "seed": 0,
    "parameters": 12345,
    "settings": {"name": "m", "cell": "lstm", "layers": 2, "units": 16, "dropout": 0.1, "validation": 0.1},
    "samples": (),
    "copied_spans": None,
    "written_spans": 0,
}


def make_card(name="m", tokenizer=TOKENIZER, card=None, **report):
    """Return a card; `report` changes its training report, `card` its other fields."""
    sizes = {"layers": 2, "units": 16, "embedding": 4, "state_size": 64, "vocab_size": len(tokenizer.tokens)}
    facts = {"name": name, "cell": "lstm", "unit": tokenizer.unit, "weights_sha256": "0", "code_sha256": "0", **sizes}
    facts |= {"activations": (("hidden", 1, 16),), "tensorflow": "2", "created": 0, "revision": 3}
    return GeneratorCard(**{**facts, "training": TrainingReport(**{**REPORT, **report}), **(card or {})})


def make_progress(*losses):
    pairs = [loss if isinstance(loss, tuple) else (loss - 0.1, loss) for loss in losses]
    epochs = [
        Epoch(train_loss=training, validation_loss=validation, accuracy=None, tokens=i, seconds=60 * i)
        for i, (training, validation) in enumerate(pairs, 1)
    ]
    return Progress(history=tuple(epochs))


def store(models_dir, name="m", version=1, *, tokenizer=TOKENIZER, epochs=(), listed=True, **changes):
    """Write a version; see `make_card` for its changes, and `make_progress` for its epochs."""
    place = models_dir / name / str(version)
    assets = place / "assets.extra"
    assets.mkdir(parents=True)
    (place / "saved_model.pb").write_bytes(b"x" * 1000)
    (assets / "generator.json").write_text(make_card(name, tokenizer, **changes).model_dump_json())
    (assets / "tokenizer.json").write_text(tokenizer.to_json())
    if epochs:
        history = [{**epoch.model_dump(), "new": 1} for epoch in make_progress(*epochs).history]
        (assets / "history.json").write_text(json.dumps(history))
    if listed:
        add_to_models_config(models_dir, name)
    return place
