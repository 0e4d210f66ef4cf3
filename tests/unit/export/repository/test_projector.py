"""The embedding's files load into TensorFlow's Embedding Projector."""

import numpy as np
import pytest

from contract.tokenizer import CharacterTokenizer, ExactWordTokenizer, SubwordTokenizer, WordTokenizer
from export.repository import projector
from export.repository.projector import label_lines, vector_lines, visible

TEXT = "The cat\tsat\n\n大 on \u2028 a mat\\ ␣\x1b\xa0 the cat. " * 2
TOKENIZERS = [
    CharacterTokenizer.train(TEXT),
    ExactWordTokenizer.train([TEXT]),
    SubwordTokenizer.train([TEXT]),
    WordTokenizer.train([TEXT]),
]


def loaded(lines):
    """Parse a file as the projector does: skip blank lines, split lines at tabs."""
    return [line.split("\t") for line in "".join(lines).split("\n") if line.strip()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.unit)
def test_every_token_has_a_vector_and_a_label(tokenizer):
    """Line i of both files is token i; each label is one visible, unique cell."""
    vectors = np.random.default_rng(0).normal(size=(len(tokenizer.tokens) + 3, 5)).astype(np.float32)
    numbers, labels = loaded(vector_lines(tokenizer, vectors)), loaded(label_lines(tokenizer, vectors))
    assert np.allclose(np.array(numbers, np.float32), vectors[: len(tokenizer.tokens)], rtol=1e-6, atol=0)
    assert len(labels) == len(tokenizer.tokens)
    assert all(len(label) == 1 and label[0].isprintable() and " " not in label[0] for label in labels)
    assert len({label[0] for label in labels}) == len(labels)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("cat", "cat"),
        (" the", "␣the"),
        ("\t", "\\t"),
        ("\n\r", "\\n\\r"),
        ("\\", "\\\\"),
        ("␣", "\\u2423"),
        ("\x1b", "\\x1b"),
        ("\u2028", "\\u2028"),
        ("大", "大"),
        ("bytes:\\xe5", "bytes:\\xe5"),
        ("bytes: \\xe5", "bytes:␣\\xe5"),
        ("bytes:\t", "bytes:\\t"),
    ],
)
def test_labels_escape_white_space_and_control_characters(label, expected):
    """They do so as Python does, except for the space."""
    assert visible(label) == expected


def test_a_large_embedding_is_truncated(monkeypatch):
    """Only the first vectors are written, with as many labels."""
    monkeypatch.setattr(projector, "MAX_NUMBERS", 35)
    tokenizer, vectors = TOKENIZERS[0], np.zeros((100, 10), np.float32)
    assert len(list(vector_lines(tokenizer, vectors))) == len(list(label_lines(tokenizer, vectors))) == 3
