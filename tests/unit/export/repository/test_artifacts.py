"""The README of a version has what is known of it; history and embedding are written for programs."""

import json
import re
import shlex

import numpy as np
import pytest

from contract.card import Sample, TrainingFilterDescription
from contract.tokenizers import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.repository import artifacts
from export.repository.artifacts import visible_label, write_artifacts
from export.repository.history import Progress
from tests.unit.export.repository.stored import TOKENIZER, make_card, make_progress

VECTORS = np.arange(33, dtype=np.float32).reshape(11, 3)
HISTORY = make_progress((1.0, 2.0), (0.5, 1000.0))
SAMPLE = Sample(temperature=0.5, given="It’s a", text=" cat.\n```\n# no heading\x1b[2J")
FILTER = TrainingFilterDescription(
    kind="documents", num_entries=12_345, span_tokens=0, stride=1, false_positive_rate=1e-5, sha256="f" * 64
)


def written(folder, card, tokenizer=TOKENIZER, vectors=None, history=HISTORY):
    (folder / "assets.extra").mkdir()
    write_artifacts(folder, card, tokenizer, vectors, history)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def page(tmp_path, **changes):
    card = make_card("my.model", **{"samples": (SAMPLE,), "corpus": "my|`book`.txt", "seed": 7, **changes})
    return written(tmp_path, card, vectors=VECTORS)["README.md"].decode()


def test_a_trained_version_has_a_readme_its_history_and_its_embedding(tmp_path):
    """The README is at the root, where people and model hubs look for it, and names the files."""
    files = written(tmp_path, make_card(samples=(SAMPLE,)), vectors=VECTORS)
    names = ["history.json", "history.png", "metadata.tsv", "vectors.tsv"]
    assert sorted(files) == ["README.md", *(f"assets.extra/{name}" for name in names)]
    assert all(f"| `assets.extra/{name}` |".encode() in files["README.md"] for name in names)
    assert b"](assets.extra/history.png)" in files["README.md"]
    assert files["assets.extra/history.png"].startswith(b"\x89PNG")


def test_the_history_has_an_entry_for_each_epoch(tmp_path):
    files = written(tmp_path, make_card(samples=(SAMPLE,)))
    first, second = json.loads(files["assets.extra/history.json"])
    assert first.pop("train_perplexity") == pytest.approx(np.e)
    assert first.pop("validation_perplexity") == pytest.approx(np.e**2)
    losses = {"train_loss": 1.0, "validation_loss": 2.0, "accuracy": None}
    scales = {"logit_scale": 1.0, "next_logit_scale": 1.0}
    assert first == {"epoch": 1, "best": True, **losses, **scales, "tokens": 1, "seconds": 60}
    assert (second["epoch"], second["best"], second["validation_perplexity"]) == (2, False, None)


def test_the_readme_has_the_facts_of_the_card(tmp_path):
    text = page(tmp_path, card={"training_filter": FILTER}, copied_spans=0.0123, written_spans=3_000)
    for line in (
        "# `my.model`",
        "A model (lstm 2 × 16), trained on ``my\\|`book`.txt``, that continues a text character by character.",
        "| validation loss | `2.000 nats per token` |",
        "| token unit | `characters, a vocabulary of 11` |",
        "| corpus | ``my\\|`book`.txt, 5,000 characters`` |",
        "| epochs | `1 is the best of 2, 4,500 tokens per epoch` |",
        "| training filter | `12,345 documents, false-positive rate 1.0e-05` |",
        "| dropout | `0.1` |",
    ):
        assert f"\n{line}\n" in f"\n{text}", line
    assert "over the 500 characters of the validation split" in text
    assert "of 3,000 8-grams of words generated at temperature 1, 1.23% occur in the training text" in text
    assert "of its first" not in text


def test_a_sample_cannot_break_the_markdown_of_the_readme(tmp_path):
    assert "\n````\n[It’s a] cat.\n```\n# no heading·[2J\n````\n" in page(tmp_path)


@pytest.mark.parametrize(("direction", "field"), [("forward", "prompt"), ("backward", "suffix")])
def test_the_example_command_calls_the_model_with_a_samples_prompt(tmp_path, direction, field):
    """A backward model gets it as suffix. It is quoted for the shell."""
    text = page(tmp_path, card={"direction": direction})
    command = shlex.split(re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].replace("\\\n", ""))
    assert command[:3] == ["curl", "http://127.0.0.1:8000/v1/completions", "-d"]
    assert json.loads(command[3]) == {"model": "my.model", field: "It’s a", "max_tokens": 200, "temperature": 0.8}


def test_a_backward_sample_is_written_before_its_suffix(tmp_path):
    sample = Sample(temperature=1, given="the end.", text="and that was ")
    assert "\n```\nand that was [the end.]\n```\n" in page(tmp_path, card={"direction": "backward"}, samples=(sample,))


def test_long_lines_of_samples_are_wrapped(tmp_path):
    """A word model generates no newlines."""
    text = page(tmp_path, samples=(Sample(temperature=1, given="the", text=" cat" * 100),))
    assert max(map(len, text.partition("## Samples")[2].partition("##")[0].split("\n"))) < 120


def test_the_readme_of_an_imported_model_omits_what_is_unknown(tmp_path):
    unknown = {"cell": None, "layers": 0, "embedding": 0, "context": 20, "training": None, "unit": "word"}
    (text,) = written(tmp_path, make_card(card=unknown), history=Progress()).values()
    assert b"A model (unknown, window 20), imported, that continues a text word by word, in lower case" in text
    for word in (b"## Metrics", b"## Samples", b"## Training", b"history", b"vectors", b"model.keras", b"None"):
        assert word not in text, word


def test_the_readme_warns_if_there_was_no_validation_split(tmp_path):
    """The training loss only measures how well the model remembers its text."""
    nothing = {"validation_loss": None, "accuracy": None, "bits_per_character": None, "held_out": None}
    text = page(tmp_path, **nothing)
    assert "| validation loss | `–` |" in text
    assert "Nothing was held out: the training loss measures only how well the text was memorized." in text
    assert "an excerpt of the training text, as nothing was held out" in text


def test_a_sample_with_labels_shows_them_and_the_example_command_has_them(tmp_path):
    text = page(tmp_path, samples=(Sample(temperature=1, given="", text="cat", labels={"style": "animal"}),))
    assert "Without a prompt; the label is in brackets." in text
    assert "\n[style=animal]cat\n" in text
    assert '"prompt": "", "labels": {"style": "animal"}' in text


TEXT = "The cat\tsat\n\n大 on \u2028 a mat\\ ␣\x1b\xa0 the cat. " * 2
TOKENIZERS = [kind.train([TEXT]) for kind in (CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer)]


def loaded(content):
    """Parse a file as the Embedding Projector does: skip blank lines, split lines at tabs."""
    return [line.split("\t") for line in content.decode().split("\n") if line.strip()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.unit)
def test_every_token_has_a_vector_and_a_label(tmp_path, tokenizer):
    vectors = np.random.default_rng(0).normal(size=(len(tokenizer.tokens) + 3, 5)).astype(np.float32)
    files = written(tmp_path, make_card(card={"training": None}), tokenizer, vectors, Progress())
    numbers, labels = (loaded(files[f"assets.extra/{name}.tsv"]) for name in ("vectors", "metadata"))
    assert np.allclose(np.array(numbers, np.float32), vectors[: len(tokenizer.tokens)], rtol=1e-6, atol=0)
    assert len(labels) == len(tokenizer.tokens)
    assert all(len(label) == 1 and label[0].isprintable() and " " not in label[0] for label in labels)
    assert len({label[0] for label in labels}) == len(labels)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        *(("cat", "cat"), (" the", "␣the"), ("\n\r", "\\n\\r"), ("\\", "\\\\"), ("␣", "\\u2423"), ("\x1b", "\\x1b")),
        *(("大", "大"), ("bytes: \\xe5", "bytes:␣\\xe5"), ("bytes:\t", "bytes:\\t")),
    ],
)
def test_labels_escape_white_space_and_control_characters(label, expected):
    assert visible_label(label) == expected


def test_a_large_embedding_is_truncated(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "MAX_NUMBERS", 11)
    files = written(tmp_path, make_card(card={"training": None}), vectors=VECTORS)
    assert [len(loaded(files[f"assets.extra/{name}.tsv"])) for name in ("vectors", "metadata")] == [3, 3]
    assert b"projector.tensorflow.org, of its first 3 tokens |" in files["README.md"]
