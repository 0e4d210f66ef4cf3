"""Training runs small enough for a test, and a display that records them."""

import numpy as np
import tensorflow as tf

from contract.card import CorpusDescription, Sample
from export.config import load_config
from export.training.dataset import Dataset
from export.training.model import build_model
from export.training.runs import RunFolder
from export.training.trainer import Trainer
from export.training.workflow import train_tokenizer
from tests.unit.export.repository.stored import store
from tests.unit.export.texts import corpus_of

TEXT = "the cat sat on the mat and the dog ran to the hill. " * 24
SETTINGS = {"name": "m", "corpus": "c", "units": 6, "embedding": 4, "batch_size": 4, "sequence_length": 25, "epochs": 3}
DESCRIPTION = CorpusDescription(
    corpus="c",
    corpus_sha256="0" * 64,
    corpus_characters=len(TEXT),
    held_out_characters=120,
    held_out="tail",
    held_out_sha256="1" * 64,
    train_tokens=1000,
    validation_tokens=100,
    validation_characters=100,
)


class NoSamples:
    """A sample writer without a model: building the model's graph takes a second."""

    documents = ()

    def __init__(self, *_):
        pass

    def write(self, _):
        return (Sample(temperature=0.7, given="the cat", text=" sat\non the mat"),)

    def samples(self, _):
        return ()

    def measure_memorization(self, *_):
        return None


class Watcher:
    """A display that records its updates, and calls a test's function at an update or an epoch."""

    def __init__(self, at_window=None, at_epoch=None):
        self.fractions, self.losses, self.weights, self.evaluations = [], [], [], []
        self._at_window, self._at_epoch = at_window, at_epoch

    def update(self, epoch, train_loss, tokens, fraction):  # noqa: ARG002 - as `Display` declares it
        self.losses.append(train_loss)
        self.fractions.append(fraction)
        if self._at_window:
            self._at_window(len(self.fractions))

    def evaluation(self, validation_loss, fraction):
        self.evaluations.append((validation_loss, fraction))

    def epoch(self, progress, model):
        self.weights.append([weight.numpy() for weight in model.trainable_variables])
        if self._at_epoch:
            self._at_epoch(progress.epochs)


def prepare(text=TEXT, **settings):
    config = load_config(None, {**SETTINGS, **settings})
    lines = text.splitlines() if config.documents == "lines" else []
    corpus = corpus_of("c", lines, ends=True) if len(lines) > 1 else corpus_of("c", [text], ends=False)
    head, tail = corpus.split(config.validation_fraction(corpus.num_characters), config.seed)
    tokenizer = train_tokenizer(config, head)
    dataset = Dataset.lay_out(head, tail, tokenizer, config)
    return Trainer(config, build_model(config, len(tokenizer.tokens)), dataset), tokenizer


def start(path, text=TEXT, **settings):
    """Return a trainer and the new directory of its run."""
    trainer, tokenizer = prepare(text, **settings)
    folder = RunFolder(path)
    folder.create(trainer.config, tokenizer, DESCRIPTION)
    return trainer, folder


def start_loop(path, losses=(), text=TEXT, **settings):
    """Return a trainer with fake computation, and its run: tracing the graphs takes seconds."""
    trainer, folder = start(path, text, **settings)
    return fake_computation(trainer, losses), folder


def fake_computation(trainer, losses=()):
    """Replace the updates by adding 1 to a weight, and their losses by its sum.

    Epochs have the given losses on the validation split, if any, else that of one wrong token each.
    """
    kernel = trainer.averaged_model.get_layer("logits").kernel

    def update(inputs, targets, states, kept, rate):  # noqa: ARG001 - as `Optimization.update`
        kernel.assign(kernel + 1.0)
        return float(np.sum(kernel)), states

    trainer.optimization.update = update
    trainer.optimization.evaluate = lambda inputs, targets, states, scale: (np.array([1.0, 0.0, 0.0, 0.0]), states)
    if losses:
        trainer._validate = lambda progress: (losses[progress.epochs], 0.5, 1.0)
    return trainer


def store_trained(models_dir, name="base", text=TEXT, documents=False, **settings):
    """Write a version of an untrained model that can be a base, without a graph; return the model."""
    config = load_config(None, {**SETTINGS, "name": name, **settings})
    corpus = corpus_of("c", [text], ends=documents)
    tokenizer = train_tokenizer(config, corpus)
    model = build_model(config, len(tokenizer.tokens))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.5, weight.shape) for weight in model.get_weights()])
    place = store(models_dir, name, tokenizer=tokenizer, settings=config.model_dump(mode="json"))
    model.save(place / "assets.extra" / "model.keras")
    return model


def scalars(folder):
    """Read every scalar of a directory's event files: name to pairs of step and value."""
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, []).append((event.step, float(tf.make_ndarray(value.tensor))))
    return found
