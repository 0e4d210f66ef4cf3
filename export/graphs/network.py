"""A recurrent generator as plain arrays: what one token passes, in order, read from a Keras model.

Knows Keras's layers and the order of their gates. Knows nothing of TensorFlow's graphs, signatures or files.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np

from export.errors import NotFinite, UnsupportedModel
from export.graphs.graph import INPUT, Node, read_graph

CELLS: dict[str, type[keras.layers.Layer]] = {
    "simple_rnn": keras.layers.SimpleRNN,
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
}
_NAMES = {kind: name for name, kind in CELLS.items()}
# Layers that do nothing once a model is trained.
_IDLE = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.GaussianNoise)


@dataclass(frozen=True)
class Embedding:
    """Looks a token up.

    Attributes:
        table: float32 (vocab, embedding).
        skips_padding: Whether a token 0 leaves every recurrent layer as it is, as Keras's `mask_zero` does.
    """

    table: np.ndarray
    skips_padding: bool = False


@dataclass(frozen=True)
class Recurrent:
    """One recurrent layer, as Keras keeps it; G is 4 for LSTM (i, f, c, o), 3 for GRU (z, r, h), 1 for SimpleRNN.

    Attributes:
        cell: "simple_rnn", "lstm" or "gru".
        kernel: float32 (inputs, G·units).
        recurrent_kernel: float32 (units, G·units).
        bias: float32 (G·units,); for GRU with `reset_after` (2, G·units), the input's and the state's.
        activation: Keras's name of it, as for the next.
        recurrent_activation: Of the gates; SimpleRNN has none.
        reset_after: Whether a GRU's reset gate works on the product by the recurrent kernel and not on the state.
    """

    cell: str
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    activation: str = "tanh"
    recurrent_activation: str = "sigmoid"
    reset_after: bool = True

    @property
    def units(self) -> int:
        """Width of the layer's state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def state_size(self) -> int:
        """Floats of state: LSTM has two vectors (h, c), the others one."""
        return self.units * (2 if self.cell == "lstm" else 1)


@dataclass(frozen=True)
class Dense:
    """A layer without memory: kernel float32 (inputs, units), bias float32 (units,)."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str = "linear"


@dataclass(frozen=True)
class Add:
    """The sum of its inputs."""


@dataclass(frozen=True)
class Concatenate:
    """Its inputs side by side."""


Operation = Embedding | Recurrent | Dense | Add | Concatenate


@dataclass(frozen=True)
class Step:
    """One operation, and the places of the steps that it takes; an embedding takes the token."""

    operation: Operation
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """What a token passes, and the layer that makes logits of it.

    Attributes:
        steps: Each after its inputs; the last one is the top of the network.
        output: The last layer, linear: whatever probabilities the model makes of its logits is left out.
    """

    steps: tuple[Step, ...]
    output: Dense

    @property
    def embedding(self) -> Embedding:
        """The first operation."""
        operation = self.steps[0].operation
        assert isinstance(operation, Embedding), "read_network begins with one"
        return operation

    @property
    def recurrent(self) -> list[Recurrent]:
        """The recurrent layers, in order."""
        return [step.operation for step in self.steps if isinstance(step.operation, Recurrent)]

    @property
    def cell(self) -> str | None:
        """Kind of the recurrent layers; None where they differ."""
        kinds = {layer.cell for layer in self.recurrent}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def vocab_size(self) -> int:
        """V: width of the output layer."""
        return int(self.output.kernel.shape[1])

    @property
    def output_size(self) -> int:
        """U: width of what the output layer takes."""
        return int(self.output.kernel.shape[0])

    @property
    def state_size(self) -> int:
        """S: floats of state per sequence."""
        return sum(layer.state_size for layer in self.recurrent)

    def sha256(self) -> str:
        """Hash every operation, its inputs, its options and its arrays: equal hashes are equal models."""
        digest = hashlib.sha256()
        for step in (*self.steps, Step(self.output)):
            digest.update(f"{type(step.operation).__name__} {step.inputs}".encode())
            for value in _values(step.operation):
                if isinstance(value, np.ndarray):
                    digest.update(str(value.shape).encode())
                    digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
                else:
                    digest.update(f" {value}".encode())
        return digest.hexdigest()


def _values(operation: Operation) -> Iterator[Any]:
    return (getattr(operation, field.name) for field in fields(operation))


def read_network(model: keras.Model) -> Network:
    """Read a model that can carry its state from token to token.

    It begins with an embedding and ends with Dense (linear or softmax), a softmax of its own behind it or not, or with
    the embedding used the other way round. Between them stand SimpleRNN, LSTM and GRU layers, Dense, sums and
    concatenations in any order; dropout is left out.

    Raises:
        UnsupportedModel: another layer, or an option that a step from token to token cannot honour.
    """
    nodes = without_softmax(read_graph(model))
    if not nodes or not isinstance(nodes[0].layer, keras.layers.Embedding) or nodes[0].inputs != (INPUT,):
        raise UnsupportedModel(f"the first layer must be Embedding; {_describe(nodes)}")
    *inner, last = nodes
    steps, places = list[Step](), {INPUT: INPUT}
    for i, node in enumerate(inner):
        if isinstance(node.layer, _IDLE):
            places[i] = places[node.inputs[0]]
            continue
        operation = _read(node)
        if (INPUT in node.inputs) != isinstance(operation, Embedding):
            raise UnsupportedModel(f"the first layer must be Embedding; {_describe(nodes)}")
        steps.append(Step(operation, tuple(places[place] for place in node.inputs if place != INPUT)))
        places[i] = len(steps) - 1
    network = Network(tuple(steps), _read_output(last))
    if places[last.inputs[0]] != len(steps) - 1 or not network.recurrent:
        raise UnsupportedModel(f"recurrent layers must lead to the last layer; {_describe(nodes)}")
    _require_numbers(network)
    return network


def without_softmax(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Leave out a softmax that is a layer of its own, at the end, unless it stands behind another one."""
    last = nodes[-1].layer if nodes else None
    softmax = isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and _activation(last) in ("softmax", "linear")
    )
    if not softmax or len(nodes) < 2:
        return nodes
    below = nodes[-2].layer
    return nodes[:-1] if not _is_dense(below) or _activation(_inner(below)) == "linear" else nodes


def _read(node: Node) -> Operation:
    """Read a layer, or refuse it by its name and what does not fit."""
    layer = node.layer
    if type(layer) in _NAMES:
        return _read_recurrent(layer)
    if isinstance(layer, keras.layers.Embedding) and not node.reverse:
        return Embedding(_array(layer.embeddings), bool(layer.mask_zero))
    if _is_dense(layer):
        return _read_dense(layer)
    if type(layer) is keras.layers.Add:
        return Add()
    if type(layer) is keras.layers.Concatenate and layer.axis in (-1, 2):
        return Concatenate()
    raise UnsupportedModel(f"layer {layer.name!r} ({type(layer).__name__}) cannot be run from token to token")


def _read_recurrent(layer: Any) -> Recurrent:
    for option in ("go_backwards", "return_state"):
        if getattr(layer, option):
            raise UnsupportedModel(f"layer {layer.name!r}: {option} must be False, got True")
    cell, bias = _NAMES[type(layer)], layer.cell.bias
    reset_after = cell != "gru" or bool(layer.reset_after)
    width = layer.cell.kernel.shape[1]
    return Recurrent(
        cell,
        _array(layer.cell.kernel),
        _array(layer.cell.recurrent_kernel),
        np.zeros((2, width) if cell == "gru" and reset_after else width, np.float32) if bias is None else _array(bias),
        _activation(layer),
        _activation(layer, "recurrent_activation") if cell != "simple_rnn" else "sigmoid",
        reset_after,
    )


def _is_dense(layer: Any) -> bool:
    return type(_inner(layer)) is keras.layers.Dense


def _inner(layer: Any) -> Any:
    # Dense works on each step alone; wrapped so that it does, it is the same.
    return layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer


def _read_dense(layer: Any) -> Dense:
    dense = _inner(layer)
    bias = np.zeros(dense.units, np.float32) if dense.bias is None else _array(dense.bias)
    return Dense(_array(dense.kernel), bias, _activation(dense))


def _read_output(node: Node) -> Dense:
    layer = node.layer
    if isinstance(layer, keras.layers.ReversibleEmbedding) and node.reverse and not layer.logit_soft_cap:
        kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
        kernel = _array(kernel).T if layer.tie_weights else _array(kernel)
        return Dense(kernel, np.zeros(kernel.shape[1], np.float32))
    if _is_dense(layer) and _activation(_inner(layer)) in ("linear", "softmax"):
        dense = _read_dense(layer)
        return Dense(dense.kernel, dense.bias)
    raise UnsupportedModel(f"the last layer must be Dense, linear or softmax; {_describe([node])}")


def _activation(layer: Any, name: str = "activation") -> str:
    serialized = keras.activations.serialize(keras.activations.get(layer.get_config()[name]))
    if not isinstance(serialized, str):
        raise UnsupportedModel(f"layer {layer.name!r}: its {name} is no function of Keras's with a name")
    return serialized


def _describe(nodes: Any) -> str:
    return "got " + (", ".join(type(node.layer).__name__ for node in nodes) or "no layer")


def _require_numbers(network: Network) -> None:
    for step in (*network.steps, Step(network.output)):
        for value in _values(step.operation):
            if isinstance(value, np.ndarray) and not np.isfinite(value).all():
                raise NotFinite("a weight is NaN or infinite: the training did not converge")


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float32)
