"""A small training run in its own process, on the devices that its arguments select; prints its result as JSON.

`python -m tests.unit.export.training.train_along FOLDER alone|mirrored|worker`
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from export.config import load_config
from export.training.dataset import Dataset
from export.training.devices import Devices
from export.training.model import build_model
from export.training.runs import RunFolder
from export.training.trainer import Trainer
from export.vocabulary import train_tokenizer
from tests.unit.export.texts import corpus_of
from tests.unit.export.trainings import DESCRIPTION, TEXT

SETTINGS = {
    "name": "m", "corpus": "c", "units": 8, "embedding": 4, "batch_size": 5, "sequence_length": 25, "epochs": 2,
    "dropout": 0, "precision": "float32", "max_minutes": 60, "layers": 2, "learning_rate": 0.01,
}  # fmt: skip


def find_devices(kind):
    if kind != "mirrored":
        return Devices.find(5, 6)
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return Devices(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def main(path, kind):
    """Train and print the losses of the epochs, the sums of the weights and a hash of the weights."""
    devices = find_devices(kind)
    config = load_config(None, SETTINGS)
    head, tail = corpus_of("c", [TEXT], ends=False).split(0.1, config.seed)
    tokenizer = train_tokenizer(config, head)
    folder = RunFolder(Path(path))
    if devices.is_chief:
        folder.create(config, tokenizer, DESCRIPTION)
    devices.broadcast(0.0)
    with devices.strategy.scope():
        model = build_model(config, len(tokenizer.tokens))
    trainer = Trainer(config, model, Dataset.lay_out(head, tail, tokenizer, config), devices=devices)
    progress = trainer.run(folder)
    weights = [np.asarray(weight) for weight in (*model.trainable_weights, *trainer.averaged_model.trainable_weights)]
    outcome = {
        "replicas": devices.num_replicas,
        "chief": devices.is_chief,
        "losses": [[epoch.train_loss, epoch.validation_loss, epoch.accuracy] for epoch in progress.history],
        "sums": [float(np.abs(weight).sum()) for weight in weights],
        "sha256": hashlib.sha256(b"".join(weight.tobytes() for weight in weights)).hexdigest(),
    }
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
