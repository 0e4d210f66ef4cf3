"""Small SavedModels with a method for each signature, and the inputs that tests give them."""

import copy
from pathlib import Path

import numpy as np
import tensorflow as tf

from contract.signatures import FORBIDDEN_DISTANCE, NUM_TOP, UNCONSTRAINED_ROW, in_precision
from contract.tokenizers import SpecialIds
from export.graphs.exportable import prepare
from export.graphs.signatures import Generator
from tests.built import built
from tests.unit.export import models
from tests.unit.export.models import VOCABULARY

END = 2
ROWS = 8
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, VOCABULARY, (ROWS, 20)).astype(np.int32)
UNIFORMS = RNG.random((ROWS, 24), dtype=np.float32)
SAMPLED = {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
OFF = {"presence_penalty": 0.0, "frequency_penalty": 0.0, "repetition_penalty": 1.0, "min_steps": 0}
OFF |= {"row": UNCONSTRAINED_ROW, "budget": FORBIDDEN_DISTANCE, "num_top": NUM_TOP}
ANY_TOKEN = np.zeros((1, VOCABULARY), np.int32)


class Published:
    """A SavedModel that was written and loaded again; its methods call the signatures of `precision`."""

    precision = "float32"

    @classmethod
    def of(cls, network, folder, end=None):
        published = cls.__new__(cls)
        published._write(network, folder, end)
        return published

    @classmethod
    def kept(cls, model, name, end=None):
        """Write a model, or load it if this or an earlier run wrote it under this name."""
        published, network = cls.__new__(cls), prepare(model).network
        folder = built(name, lambda folder: _save(network, folder, end), Path(models.__file__).read_text())
        published._load(network, folder)
        return published

    def __init__(self, model, folder, end=None):
        self._write(prepare(model).network, folder, end)

    def _write(self, network, folder, end):
        _save(network, folder, end)
        self._load(network, folder)

    def _load(self, network, folder):
        self.functions = tf.saved_model.load(str(folder)).signatures
        self.state_size = network.state_size

    def using(self, precision):
        """Return the same model with the signatures of another precision."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def call(self, name, **inputs):
        if name == "score":
            inputs.setdefault("num_top", np.full(len(inputs["token_ids"]), NUM_TOP, np.int32))
        outputs = self.functions[in_precision(name, self.precision)](
            **{key: tf.constant(value) for key, value in inputs.items()}
        )
        return {key: value.numpy() for key, value in outputs.items()}

    def zeros(self, rows=ROWS):
        return np.zeros((rows, self.state_size), np.float32)

    def read(self, token_ids, state=None):
        lengths = np.full(len(token_ids), token_ids.shape[1], np.int32)
        state = self.zeros(len(token_ids)) if state is None else state
        return self.call("prefill", token_ids=token_ids, lengths=lengths, state=state)["state"]

    def draw(self, token_id, state, uniforms, **controls):
        columns = _columns({"steps": uniforms.shape[1], **SAMPLED, **controls}, len(uniforms))
        return self.call("decode", token_id=token_id, state=state, uniforms=uniforms, **columns)

    def draw_full(
        self,
        token_id,
        state,
        uniforms,
        *,
        counts=None,
        seen=None,
        bias=None,
        transitions=ANY_TOKEN,
        continuations=(0,),
        **controls,
    ):
        """Sample with `decode_full`. `counts`, `seen` and `bias` are dense here, (rows, V); None is all zeros."""
        empty = np.zeros((len(uniforms), VOCABULARY))
        lists = listed(*(empty if table is None else table for table in (counts, seen, bias)))
        columns = _columns({"steps": uniforms.shape[1], **SAMPLED, **OFF, **controls}, len(uniforms))
        inputs = {"token_id": token_id, "state": state, "uniforms": uniforms, "transitions": transitions}
        inputs["continuations"] = np.array(continuations, np.int32)
        return self.call("decode_full", **inputs, **lists, **columns)


def _save(network, folder, end):
    generator = Generator(network, SpecialIds(0, 1, END, end), VOCABULARY - 2)
    tf.saved_model.save(generator, str(folder), signatures=generator.signatures())


def listed(counts, seen, bias):
    """Convert tables (rows, V) to the lists of `decode_full`: ids of each row's nonzero entries, padded with zeros."""
    rows = [np.flatnonzero(row) for row in (counts != 0) | (seen != 0) | (bias != 0)]
    ids = np.zeros((len(rows), max(map(len, rows))), np.int32)
    values = {name: np.zeros(ids.shape, np.float32) for name in ("counts", "seen", "bias")}
    for row, own in enumerate(rows):
        ids[row, : len(own)] = own
        for name, table in zip(values, (counts, seen, bias), strict=True):
            values[name][row, : len(own)] = table[row, own]
    return {"adjusted_ids": ids, **values}


def _columns(values, rows):
    kinds = dict.fromkeys(("steps", "top_k", "min_steps", "row", "budget", "num_top"), np.int32)
    return {
        name: np.broadcast_to(np.asarray(value, kinds.get(name, np.float32)), rows).copy()
        for name, value in values.items()
    }


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
