"""Labels in training: inputs that are no targets, and that are dropped at random."""

import json

import numpy as np
import pytest

from contract.label_columns import label_ids
from export.config import load_config
from export.corpora.corpus import read_corpus
from export.corpora.labels import LabelDropout, learn_columns
from export.errors import ConfigError
from export.training.dataset import Dataset
from export.training.model import build_model
from export.training.runs import RunFolder
from export.training.samples import SampleWriter
from export.training.trainer import Trainer
from export.vocabulary import train_tokenizer
from tests.unit.export.texts import corpus_of
from tests.unit.export.trainings import DESCRIPTION, SETTINGS


@pytest.fixture
def lay_out(tmp_path):
    """Return a dataset of 300 records with two label columns, and its configuration."""

    def lay_out(columns=("style", "size"), **settings):
        path = tmp_path / "records.jsonl"
        rows = [{"text": "ab" * (1 + i % 3), "style": "xy"[i % 2], "size": i} for i in range(300)]
        path.write_text("\n".join(map(json.dumps, rows)))
        own = {"corpus": str(path), "documents": "records", "label_column": columns or None}
        given = {**SETTINGS, **own, **settings}
        config = load_config(None, given)
        corpus = read_corpus(str(path), config.documents, label_columns=columns)
        head, tail = corpus.split(config.validation_fraction(corpus.num_characters), config.seed)
        learned = learn_columns(head)
        tokenizer = train_tokenizer(config, head, learned)
        return Dataset.lay_out(head, tail, tokenizer, config, columns=learned), config

    return lay_out


def test_labels_are_dropped_anew_alone_and_together(lay_out):
    """At a rate of 0.3 a document loses all of two labels with a probability of 0.3 + 0.7 × 0.09 = 0.363."""
    dataset, _ = lay_out()
    (dropout,) = dataset.dropouts
    before, rng = dataset.train.ids.copy(), np.random.default_rng(0)
    dropout = LabelDropout(dropout.ids, dropout.positions, dropout.labels, dropout.none, rate=0.3)
    shares = []
    for _ in range(40):
        dropout.apply(rng)
        is_none = dropout.ids[dropout.positions] == dropout.none
        shares.append([is_none[:, 0].mean(), is_none.all(axis=1).mean()])
    one, both = np.mean(shares, axis=0)
    assert one == pytest.approx(0.3 + 0.7 * 0.3, abs=0.03)
    assert both == pytest.approx(0.3 + 0.7 * 0.09, abs=0.03)
    changed = np.flatnonzero(dataset.train.ids != before)
    assert set(changed.tolist()) <= set(dropout.positions.ravel().tolist())
    LabelDropout(dropout.ids, dropout.positions, dropout.labels, dropout.none, rate=0.0).apply(rng)
    assert (dataset.train.ids == before).all()


def test_labels_are_no_targets(lay_out):
    """Whatever the labels, loss and gradients ignore how probable the model finds them."""
    dataset, config = lay_out(dropout=0)
    vocab_size, labels = len(dataset.tokenizer.tokens), list(label_ids(dataset.tokenizer).values())
    inputs, targets = next(dataset.train.batches())
    assert np.isin(targets, labels).any()
    others = np.where(np.isin(targets, labels), labels[0], targets).astype(np.int32)
    losses = []
    for given in (targets, others):
        trainer = Trainer(config.model_copy(update={"seed": 3}), build_model(config, vocab_size), dataset)
        optimization = trainer.optimization
        states = optimization.zero_states(inputs.shape[1])
        (loss, *_), _ = optimization.evaluate(inputs, given, states, 1.0)
        kept = np.ones((inputs.shape[1], 1), np.float32)
        losses.append((loss, *(optimization.update(inputs, given, states, kept, 0.01)[0] for _ in range(2))))
    assert losses[0] == losses[1]
    counted = np.count_nonzero(~np.isin(targets, labels))
    assert losses[0][1] * counted == pytest.approx(losses[0][0], rel=0.02)


def test_the_training_loss_is_a_mean_over_targets_without_labels(lay_out, tmp_path, monkeypatch):
    """A window with fewer labels has more targets."""
    dataset, config = lay_out(dropout=0, epochs=1)
    trainer = Trainer(config, build_model(config, len(dataset.tokenizer.tokens)), dataset)
    labels, counts, losses = list(label_ids(dataset.tokenizer).values()), [], []

    def update(inputs, targets, states, *_):  # noqa: ARG001 - as `Optimization.update`
        counts.append(np.count_nonzero(~np.isin(targets, labels)))
        losses.append(float(len(losses)))
        return losses[-1], states

    monkeypatch.setattr(trainer.optimization, "update", update)
    monkeypatch.setattr(trainer, "_validate", lambda _: (1.0, 0.5, 1.0))
    folder = RunFolder(tmp_path / "run")
    folder.create(config, dataset.tokenizer, DESCRIPTION)
    progress = trainer.run(folder)
    assert len(set(counts)) > 1
    assert progress.last.train_loss == pytest.approx(np.average(losses, weights=counts))


def test_the_card_counts_no_labels(lay_out):
    dataset, config = lay_out()
    plain, _ = lay_out(columns=())
    assert dataset.num_evaluated == plain.num_evaluated
    described = dataset.describe(read_corpus(config.corpus, "records"))
    assert [column.name for column in described.label_columns] == ["style", "size"]
    assert (
        described.validation_characters == plain.describe(read_corpus(config.corpus, "records")).validation_characters
    )


def test_a_running_text_has_no_labels_to_drop(lay_out):
    """A model with labels is trained further on it."""
    labeled, config = lay_out()
    text = corpus_of("c", ["abba" * 100], ends=False)
    dataset = Dataset.lay_out(text, None, labeled.tokenizer, config, columns=labeled.columns)
    assert not dataset.dropouts


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"documents": "lines"}, "label_column requires documents = records, got lines"),
        ({"bidirectional": True}, "label_column cannot be combined with bidirectional"),
        ({"label_column": ["a", "a"]}, "label_column: must name each column once"),
        ({"label_column": ["a\0b"]}, "label_column: must not have the character NUL"),
        ({"label_column": list("abcdefghi")}, "label_column: .* at most 8 items"),
        ({"label_dropout": 1}, "label_dropout: "),
    ],
)
def test_settings_that_contradict_labels_are_refused(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        load_config(None, {**SETTINGS, "label_column": ["style"], **settings})


def test_one_column_implies_records():
    config = load_config(None, {**SETTINGS, "label_column": "style"})
    assert (config.label_column, config.documents) == (("style",), "records")


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_samples_have_texts_of_some_labels(lay_out, direction):
    """Those of an epoch have other bins of numbers than those of a version."""
    dataset, config = lay_out(direction=direction)
    writer = SampleWriter(dataset.tokenizer, ("abc" * 40,), config, dataset.columns)
    model, (style, size), read = build_model(config, len(dataset.tokenizer.tokens)), dataset.columns, []
    prefill = writer._prefill
    writer._prefill = lambda *given: read.extend(given[1]) or prefill(*given)
    for generate, bins in ((writer.write, (1, 4, 7)), (writer.samples, (2, 6))):
        labels = [{"style": style.values[0]}, *({"size": size.values[i]} for i in bins)]
        assert [(sample.given, sample.labels) for sample in generate(model)] == [("", each) for each in labels]
        assert read == labels
        read.clear()
    without, state = prefill([""], [{}])
    others = [prefill([""], [each]) for each in labels]
    assert all(last != without or not np.array_equal(other, state) for last, other in others)
