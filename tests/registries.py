"""A model registry that a test polls, a fake model server behind it, and the files of its repository."""

import json

import numpy as np

from contract.card import GeneratorCard
from contract.tokenizers import CharacterTokenizer
from service.backends.client import VersionStatus
from service.backends.replicas import Replicas
from service.errors import BackendUnavailable, ModelNotFound
from service.models.registry import ModelRegistry
from service.settings import Settings
from tests.unit.contract.test_card import FIELDS, write

# Set as a version's error: the version is loading.
LOADING = "loading"


class PolledRegistry(ModelRegistry):
    """A model registry without a thread."""

    def __init__(self, models_dir, replicas, **settings):
        super().__init__(Settings(models_dir=models_dir, **settings), replicas)

    def refresh(self) -> None:
        """Poll the repository and every backend once, and wait for all probes."""
        self._config.read()
        for replica in self._replicas.discover():
            for thread in self._checks.check(replica):
                thread.join()
        self._merge()


class FakeServer:
    """A client of a model server with the models, errors and bits that a test sets."""

    def __init__(self):
        self.models = {}
        self.down = False
        self.down_for_calls = False
        self.num_calls = 0
        self.bits = 0.0

    def versions(self, name):
        if self.down:
            raise BackendUnavailable("down")
        if name not in self.models:
            raise ModelNotFound(f"no {name}")
        return [
            VersionStatus(version, available=error == "", error=error.replace(LOADING, ""), loading=error == LOADING)
            for version, error in self.models[name].items()
        ]

    def reset(self):
        pass

    def close(self):
        pass

    def predict(self, _model, _signature, inputs, outputs, vocab_size):
        if self.down or self.down_for_calls:
            raise BackendUnavailable("down")
        self.num_calls += 1
        assert vocab_size == FIELDS["vocab_size"], "what a probe computes is checked against the card"
        return {name: np.full(shape, self.bits, np.float32) for name, shape in outputs.items()} | {
            "state": inputs["state"]
        }


def only(server):
    return Replicas(lambda *_: server, ["server:1"], resolve=lambda address: [address])


def add(folder, name, version, **fields):
    home = folder / name / str(version)
    home.mkdir(parents=True)
    write(home, GeneratorCard(**{**FIELDS, "name": name, **fields}), CharacterTokenizer.train("abc"))
    config = folder / "models.config"
    text = config.read_text() if config.exists() else "model_config_list {}"
    if f'"{name}"' not in text:
        entry = f'config {{ name: "{name}" base_path: "/models/{name}" }} }}'
        config.write_text(text.rstrip()[:-1] + entry)


def label(folder, **labels):
    (folder / "labels.json").write_text(json.dumps({"demo": labels}))


def write_vectors(folder, rows, name="demo"):
    path = folder / name / "1" / "assets.extra" / "vectors.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(f"{value:.7g}" for value in row) + "\n" for row in rows))
    return path
