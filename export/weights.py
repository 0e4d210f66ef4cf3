"""The weights of a recurrent generator, read from a Keras model.

Knows Keras's layers and the order of their gates. Knows nothing of graphs, signatures or files.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from export.errors import UnsupportedModel

CELLS: dict[str, type[keras.layers.Layer]] = {
    "simple_rnn": keras.layers.SimpleRNN,
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
}
# What the cells of `export.cells` compute; any other value of these options is another function.
_REQUIRED: dict[str, dict[str, Any]] = {
    "simple_rnn": {"activation": "tanh"},
    "lstm": {"activation": "tanh", "recurrent_activation": "sigmoid"},
    "gru": {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True},
}
_REQUIRED_OF_ALL = {"use_bias": True, "go_backwards": False, "return_sequences": True}
_IGNORED = (keras.layers.InputLayer, keras.layers.Dropout, keras.layers.SpatialDropout1D)


@dataclass(frozen=True)
class LayerWeights:
    """One recurrent layer, as Keras keeps it; G is 4 for LSTM (i, f, c, o), 3 for GRU (z, r, h), 1 for SimpleRNN.

    Attributes:
        kernel: float32 (inputs, G·units).
        recurrent_kernel: float32 (units, G·units).
        bias: float32 (G·units,); for GRU (2, G·units), the input's and the state's.
    """

    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray

    @property
    def units(self) -> int:
        """Width of the layer's state."""
        return int(self.recurrent_kernel.shape[0])


@dataclass(frozen=True)
class StackWeights:
    """An embedding, recurrent layers of one cell and an output layer.

    Attributes:
        embedding: float32 (vocab, embedding).
        output_kernel: float32 (units, vocab).
        output_bias: float32 (vocab,).
    """

    cell: str
    embedding: np.ndarray
    layers: tuple[LayerWeights, ...]
    output_kernel: np.ndarray
    output_bias: np.ndarray

    @property
    def vocab_size(self) -> int:
        """V: width of the output layer."""
        return int(self.output_kernel.shape[1])

    @property
    def state_size(self) -> int:
        """S: floats of state per sequence; LSTM has two vectors a layer (h, c), the others one."""
        return sum(layer.units for layer in self.layers) * (2 if self.cell == "lstm" else 1)

    def arrays(self) -> list[np.ndarray]:
        """Return every array, in the order in which a token passes them."""
        layers = [a for layer in self.layers for a in (layer.kernel, layer.recurrent_kernel, layer.bias)]
        return [self.embedding, *layers, self.output_kernel, self.output_bias]

    def sha256(self) -> str:
        """Hash the cell and each array's shape and bytes: equal hashes are equal models."""
        digest = hashlib.sha256(self.cell.encode())
        for array in self.arrays():
            digest.update(str(array.shape).encode())
            digest.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return digest.hexdigest()


def read_weights(model: keras.Model) -> StackWeights:
    """Read the weights of a model Embedding → recurrent layers of one cell → Dense(vocabulary).

    Dropout layers are left out, and a softmax at the end: the signatures work on logits.

    Raises:
        UnsupportedModel: another layer, another order, or an option that changes what a layer computes.
    """
    layers = [layer for layer in model.layers if not isinstance(layer, _IGNORED)]
    if len(layers) < 3 or not isinstance(layers[0], keras.layers.Embedding):
        raise UnsupportedModel("a model must be Embedding, then recurrent layers, then Dense; " + _describe(layers))
    embedding, *recurrent, output = layers
    cell = next((name for name, kind in CELLS.items() if all(isinstance(layer, kind) for layer in recurrent)), None)
    if cell is None:
        raise UnsupportedModel("recurrent layers must all be SimpleRNN, all LSTM or all GRU; " + _describe(recurrent))
    if type(output) is not keras.layers.Dense or _option(output, "activation") not in ("linear", "softmax"):
        raise UnsupportedModel("the last layer must be Dense, linear or softmax; " + _describe([output]))
    for layer in recurrent:
        _require_plain(layer, cell)
    kernel, bias = output.kernel, output.bias if output.use_bias else np.zeros(output.units)
    weights = StackWeights(
        cell=cell,
        embedding=_array(embedding.embeddings),
        layers=tuple(LayerWeights(*(_array(w) for w in layer.weights[:3])) for layer in recurrent),
        output_kernel=_array(kernel),
        output_bias=_array(bias),
    )
    if not all(np.isfinite(array).all() for array in weights.arrays()):
        raise UnsupportedModel("a weight is NaN or infinite: the training did not converge")
    return weights


def _require_plain(layer: keras.layers.Layer, cell: str) -> None:
    for option, expected in {**_REQUIRED[cell], **_REQUIRED_OF_ALL}.items():
        given = _option(layer, option)
        if given != expected:
            raise UnsupportedModel(f"layer {layer.name!r}: {option} must be {expected!r}, got {given!r}")


def _option(layer: keras.layers.Layer, name: str) -> Any:
    value = layer.get_config().get(name)
    return keras.activations.serialize(keras.activations.get(value)) if name.endswith("activation") else value


def _describe(layers: list[keras.layers.Layer]) -> str:
    return "got " + (", ".join(type(layer).__name__ for layer in layers) or "no layer")


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float32)
