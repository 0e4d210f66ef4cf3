"""The page of a version has what its card knows, and omits what it does not."""

import json
import math
import re
import shlex

import pytest

from contract.card import GeneratorCard, Sample, TrainingFilterDescription, TrainingReport
from export.repository.history import Epoch, Progress
from export.repository.readme import write_readme

REPORT = TrainingReport(
    corpus="my|`book`.txt",
    corpus_sha256="c" * 64,
    corpus_characters=100_000,
    held_out_characters=10_000,
    held_out="tail",
    held_out_sha256="e" * 64,
    train_tokens=90_000,
    validation_tokens=9_900,
    validation_characters=9_950,
    epochs=3,
    train_loss=1.25,
    validation_loss=1.5,
    accuracy=0.5678,
    bits_per_character=1.5 / math.log(2),
    tokens_per_s=1234.5,
    seconds=3725.4,
    seed=7,
    parameters=12_345,
    settings={"cell": "lstm", "context_length": None, "bidirectional": False, "corpus": "a|b"},
    samples=(Sample(temperature=0.5, given="It’s a", text=" cat.\n```\n# no heading\x1b[2J"),),
    copied_spans=0.0123,
    written_spans=3_000,
)
CARD = GeneratorCard(
    name="my.model",
    cell="lstm",
    layers=2,
    units=512,
    embedding=64,
    state_size=2048,
    vocab_size=90,
    unit="character",
    weights_sha256="d" * 64,
    code_sha256="",
    tensorflow="2.21.0",
    created=1_700_000_000,
    traces=(("hidden", 1, 512),),
    training=REPORT,
    training_filter=TrainingFilterDescription(
        kind="documents", num_entries=12_345, span_tokens=0, stride=1, false_positive_rate=1e-5, sha256="f" * 64
    ),
)
HISTORY = Progress(
    history=tuple(Epoch(train_loss=1, validation_loss=2 - i, accuracy=0.5, tokens=i, seconds=i) for i in range(2))
)
FILES = {
    "generator.json",
    "tokenizer.json",
    "model.keras",
    "history.json",
    "history.png",
    "vectors.tsv",
    "metadata.tsv",
    "training.bloom",
}


def page(card=CARD, history=HISTORY, files=FILES, num_vectors=90, **report):
    """Return the page of a card with these changes of its report."""
    if card.training is not None:
        card = card.model_copy(update={"training": card.training.model_copy(update=report)})
    return write_readme(card, 90, history, files, num_vectors)


def test_the_page_has_every_value_of_the_card():
    """Numbers have their units."""
    text = page()
    for line in (
        "# `my.model`",
        "An LSTM of 2 layers with 512 units, trained on ``my\\|`book`.txt``, that continues a text "
        "character by character.",
        "| loss, nats per token | 1.2500 | 1.5000 |",
        "| perplexity | 3.490 | 4.482 |",
        "| bits per character |  | 2.1640 |",
        "| accuracy |  | 56.78% |",
        "![Loss and perplexity of each epoch](assets.extra/history.png)",
        "| vocabulary | 90 tokens |",
        "| parameters | 12,345 |",
        "| state per sequence | 8,192 bytes |",
        f"| SHA-256 of the weights | `{'d' * 64}` |",
        "| published | 2023-11-14 22:13 UTC |",
        "| TensorFlow | 2.21.0 |",
        f"| SHA-256 of its text | `{'c' * 64}` |",
        "| characters | 100,000 |",
        "| of these held out, at the end | 10,000 |",
        "| tokens per epoch | 90,000 |",
        "| epochs | 3; the best was 2 of 2 |",
        "| time, h:mm:ss | 1:02:05 |",
        "| speed | 1,234 tokens/s |",
        "| seed | 7 |",
        "| training filter | 12,345 documents, false-positive rate 1.0e-05 |",
        "| `cell` | `lstm` |",
        "| `context_length` | `none` |",
        "| `bidirectional` | `false` |",
        "| `corpus` | `a\\|b` |",
        "| `assets.extra/history.png` | the picture above |",
        "| `assets.extra/training.bloom` | the training filter, which recognizes copies of the training split |",
    ):
        assert f"\n{line}\n" in f"\n{text}", line
    assert "9,900 tokens in the vocabulary, which cover 9,950 characters" in text
    assert "of 3,000 8-grams of words generated at temperature 1, 1.23% occur in the training text" in text


def test_a_sample_cannot_break_the_markdown_of_the_page():
    """A code fence in it stays text, and a control character becomes a dot."""
    assert "\n````\n[It’s a] cat.\n```\n# no heading·[2J\n````\n" in page()


@pytest.mark.parametrize(("direction", "field"), [("forward", "prompt"), ("backward", "suffix")])
def test_the_example_command_calls_the_model_with_a_samples_prompt(direction, field):
    """A backward model gets it as suffix. It is quoted for the shell."""
    text = page(CARD.model_copy(update={"direction": direction}))
    command = shlex.split(re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].replace("\\\n", ""))
    assert command[:3] == ["curl", "http://127.0.0.1:8000/v1/completions", "-d"]
    assert json.loads(command[3]) == {"model": "my.model", field: "It’s a", "max_tokens": 200, "temperature": 0.8}


def test_a_backward_sample_is_written_before_its_suffix():
    """The page has both in reading order."""
    sample = Sample(temperature=1, given="the end.", text="and that was ")
    text = page(CARD.model_copy(update={"direction": "backward"}), samples=(sample,))
    assert "\n```\nand that was [the end.]\n```\n" in text


def test_long_lines_of_samples_are_wrapped():
    """A word model generates no newlines."""
    sample = Sample(temperature=1, given="the", text=" cat" * 100)
    assert max(map(len, page(samples=(sample,)).partition("## Samples")[2].partition("##")[0].split("\n"))) < 120


def test_the_page_of_an_imported_model_omits_what_is_unknown():
    """It has no training report, no history and perhaps no embedding."""
    unknown = {"cell": None, "layers": 0, "embedding": 0, "context": 20, "training": None, "unit": "word"}
    unknown["training_filter"] = None
    text = page(CARD.model_copy(update=unknown), Progress(), {"generator.json", "tokenizer.json"})
    assert "A model, imported, that continues a text word by word, in lower case" in text
    assert ", with a sliding window of 20 tokens." in text
    for word in (
        "## Metrics",
        "## Samples",
        "## Training",
        "history",
        "vectors",
        "model.keras",
        "cells",
        "embedding",
        "filter",
        "None",
    ):
        assert word not in text, word


def test_the_page_warns_if_there_was_no_validation_split():
    """The training loss only measures how well the model remembers its text."""
    text = page(validation_loss=None, accuracy=None, bits_per_character=None, held_out_characters=0)
    assert "|  | training |\n| --- | --- |\n| loss, nats per token | 1.2500 |\n| perplexity | 3.490 |\n\n" in text
    assert "Nothing was held out: the training loss measures only how well the text was memorized." in text
    assert "an excerpt of the training text, as nothing was held out" in text


def test_the_page_names_the_validation_split():
    """The end of a running text, or documents sampled by a seed."""
    assert "Validation is the last 10,000 characters of the corpus, 9,900 tokens in the vocabulary" in page()
    sampled = "Validation is documents sampled by seed 7, 10,000 characters, 9,900 tokens in the vocabulary"
    assert sampled in page(held_out="shuffled_documents")


def test_samples_without_a_prompt_are_described_as_such():
    """The corpus, from which prompts are taken, may be missing when a run is published."""
    text = page(samples=(Sample(temperature=1, given="", text="c"),), copied_spans=None)
    assert "Without a prompt." in text
    assert '"prompt": "The "' in text


def test_a_truncated_embedding_is_described_as_such():
    """The page has the number of its vectors."""
    assert "projector.tensorflow.org, of its first 40 tokens |" in page(num_vectors=40)
    assert "of its first" not in page()
