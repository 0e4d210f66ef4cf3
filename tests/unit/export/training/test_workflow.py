"""The training report of a card describes the best epoch."""

import math

import pytest

from contract.card import Sample
from export.config import load_config
from export.corpora.memorization import Memorization
from export.repository.history import Epoch, Progress
from export.training.runs import RunFolder
from export.training.workflow import TrainingRun
from tests.unit.export import trainings
from tests.unit.export.repository.stored import TOKENIZER
from tests.unit.export.trainings import SETTINGS, prepare

DESCRIPTION = trainings.DESCRIPTION.model_copy(
    update={"corpus_characters": 1000, "train_tokens": 450, "validation_tokens": 50}
)
HISTORY = Progress(
    history=(
        Epoch(train_loss=3.0, validation_loss=math.log(4), accuracy=0.4, tokens=450, seconds=10),
        Epoch(train_loss=2.0, validation_loss=math.log(8), accuracy=0.5, tokens=900, seconds=20),
    )
)
SAMPLES = (Sample(temperature=0.5, given="a", text="b"),)


def report(directory, config, tokenizer, *results):
    return TrainingRun(RunFolder(directory), directory, config, tokenizer, DESCRIPTION).report(HISTORY, *results)


def test_every_field_describes_the_best_epoch(tmp_path):
    """Bits per character: 50 tokens of 2 bits over 100 characters give 1."""
    trainer, tokenizer = prepare(cell="gru", seed=5)
    got = report(tmp_path, trainer.config, tokenizer, SAMPLES, Memorization(200, 50), None)
    assert got.bits_per_character == pytest.approx(1)
    assert (got.train_loss, got.validation_loss, got.accuracy) == (3.0, math.log(4), 0.4)
    assert (got.epochs, got.seconds, got.tokens_per_s, got.seed) == (1, 10, 45, 5)
    assert (got.corpus_characters, got.held_out_characters) == (1000, 120)
    assert (got.train_tokens, got.validation_tokens) == (450, 50)
    assert got.parameters == trainer.averaged_model.count_params()
    assert got.settings == trainer.config.model_dump(mode="json")
    assert got.samples == SAMPLES
    assert (got.copied_spans, got.written_spans) == (0.25, 200)
    assert got.no_training_filter is None


@pytest.mark.parametrize(
    ("memorization", "expected"), [(None, (None, None)), (Memorization(5, 5), (None, 5))], ids=["no text", "too few"]
)
def test_the_copied_share_may_be_unknown(tmp_path, memorization, expected):
    """The corpus of a run may be gone when it is published; then there is no training filter either."""
    got = report(tmp_path, load_config(None, SETTINGS), TOKENIZER, (), memorization, "no_corpus")
    assert (got.copied_spans, got.written_spans) == expected
    assert got.no_training_filter == "no_corpus"
