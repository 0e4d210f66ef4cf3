"""What the card says of a training is that of its best epoch."""

import math

import pytest

from contract.card import Sample
from export.corpora.memorization import Memorization
from export.repository.history import Epoch, Progress
from export.training.report import report
from export.training.runs import CorpusFacts
from tests.unit.export.trainings import prepare

FACTS = CorpusFacts(
    corpus="c",
    corpus_sha256="0" * 64,
    corpus_characters=1000,
    held_out_characters=120,
    train_tokens=450,
    validation_tokens=50,
    judged_characters=100,
)
HISTORY = Progress(
    history=(
        Epoch(train_loss=3.0, validation_loss=math.log(4), accuracy=0.4, tokens=450, seconds=10),
        Epoch(train_loss=2.0, validation_loss=math.log(8), accuracy=0.5, tokens=900, seconds=20),
    )
)
SAMPLES = (Sample(temperature=0.5, given="a", text="b"),)


def test_every_field_is_that_of_the_best_epoch():
    """Bits of a character: 50 tokens of 2 bits stand for 100 characters."""
    trainer, tokenizer = prepare(cell="gru", seed=5)
    got = report(trainer.config, len(tokenizer.tokens), FACTS, HISTORY, SAMPLES, Memorization(200, 50))
    assert got.bits_per_character == pytest.approx(1)
    assert (got.train_loss, got.validation_loss, got.accuracy) == (3.0, math.log(4), 0.4)
    assert (got.epochs, got.seconds, got.tokens_per_s, got.seed) == (1, 10, 45, 5)
    assert (got.corpus_characters, got.held_out_characters) == (1000, 120)
    assert (got.train_tokens, got.validation_tokens) == (450, 50)
    assert got.parameters == trainer.averaged_model.count_params()
    assert got.settings == trainer.config.model_dump(mode="json")
    assert got.samples == SAMPLES
    assert (got.copied_spans, got.written_spans) == (0.25, 200)


def test_what_is_not_known_is_none():
    """A run of an earlier release did not count characters, and its corpus may be gone."""
    trainer, tokenizer = prepare()
    facts = FACTS.model_copy(update={"judged_characters": None, "held_out_characters": None})
    got = report(trainer.config, len(tokenizer.tokens), facts, HISTORY, (), None)
    assert (got.bits_per_character, got.held_out_characters, got.copied_spans, got.written_spans) == (None,) * 4


def test_a_share_of_a_handful_is_none():
    """How many there were is told all the same."""
    trainer, tokenizer = prepare()
    got = report(trainer.config, len(tokenizer.tokens), FACTS, HISTORY, (), Memorization(5, 5))
    assert (got.copied_spans, got.written_spans) == (None, 5)
