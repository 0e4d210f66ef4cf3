"""A recurrent network as plain arrays and operations in order, converted from the layer graph of a Keras model."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from export.errors import NotFinite, UnsupportedModel

CELLS: dict[str, type[keras.layers.Layer]] = {
    "simple_rnn": keras.layers.SimpleRNN,
    "lstm": keras.layers.LSTM,
    "gru": keras.layers.GRU,
}
NAMES = {kind: name for name, kind in CELLS.items()}
# Layers that are the identity in inference.
_TRAINING_ONLY = (keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.GaussianNoise)
# Index of the model's own input among the inputs of a node.
INPUT = -1


@dataclass(frozen=True)
class Node:
    """One call of a layer."""

    layer: keras.layers.Layer
    inputs: tuple[int, ...]  # indices of its input nodes, or `INPUT`
    reverse: bool = False  # whether an embedding is used in reverse, from vectors to logits


def all_layers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all its nested layers, cells included."""
    yield layer
    names = ("forward_layer", "backward_layer", "layer", "cell")
    several = [inner for name in ("layers", "cells") for inner in getattr(layer, name, ())]
    for inner in [*several, *(getattr(layer, name, None) for name in names)]:
        if isinstance(inner, keras.layers.Layer):
            yield from all_layers(inner)


def read_graph(model: keras.Model) -> tuple[Node, ...]:
    """Return the layer calls of a model in topological order; the last one is its output.

    Raises:
        UnsupportedModel: the model is neither Sequential nor functional, has several inputs or outputs, or contains
            operations on tensors that are not layers.
    """
    if isinstance(model, keras.Sequential):
        layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
        return tuple(Node(layer, (i - 1,)) for i, layer in enumerate(layers))
    described = f"model {getattr(model, 'name', '')!r} ({type(model).__name__})"
    # A subclass has a `call` of its own.
    if not type(model).__module__.startswith("keras.") or not hasattr(model, "outputs"):
        raise UnsupportedModel(f"{described} is neither Sequential nor functional: its layers cannot be followed")
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        counts = f"{len(model.inputs)} inputs and {len(model.outputs)} outputs"
        raise UnsupportedModel(f"{described} must have one input and one output, got {counts}")
    nodes: list[Node] = []
    indices = {id(model.inputs[0]): INPUT}
    _visit(model.outputs[0], nodes, indices)
    return tuple(nodes)


def _visit(tensor: keras.KerasTensor, nodes: list[Node], indices: dict[int, int]) -> int:
    """Append a tensor's call after its inputs, unless it is there already; return its index."""
    if id(tensor) not in indices:
        layer, call, output = tensor._keras_history
        if output:
            raise UnsupportedModel(
                f"output {output} of layer {layer.name!r} is used: states that are passed explicitly are not supported"
            )
        if not isinstance(layer, keras.layers.Layer):
            raise UnsupportedModel(f"{type(layer).__name__} {layer.name!r} is not a layer")
        arguments = layer._inbound_nodes[call].arguments
        # `Embedding.skips_padding` represents the mask that Keras derives from an embedding's padding.
        unmasked = {name: value for name, value in arguments.kwargs.items() if name != "mask"}
        sources = keras.tree.flatten([arguments.args, unmasked])
        inputs = tuple(_visit(source, nodes, indices) for source in sources if isinstance(source, keras.KerasTensor))
        nodes.append(Node(layer, inputs, bool(unmasked.get("reverse"))))
        indices[id(tensor)] = len(nodes) - 1
    return indices[id(tensor)]


@dataclass(frozen=True)
class Embedding:
    """An embedding lookup.

    Attributes:
        table: float32 (vocab, embedding).
        skips_padding: Whether token 0 leaves every recurrent state unchanged, as with Keras's `mask_zero`.
    """

    table: np.ndarray
    skips_padding: bool = False


@dataclass(frozen=True)
class Recurrent:
    """A recurrent layer in Keras's layout; G is 4 for LSTM (i, f, c, o), 3 for GRU (z, r, h), 1 for SimpleRNN.

    Attributes:
        cell: "simple_rnn", "lstm" or "gru".
        kernel: float32 (inputs, G·units).
        recurrent_kernel: float32 (units, G·units).
        bias: float32 (G·units,); for GRU with `reset_after` (2, G·units), the input and the recurrent bias.
        activation: Keras's name of the activation.
        recurrent_activation: Keras's name of the gate activation; unused for SimpleRNN.
        reset_after: Whether a GRU applies the reset gate after the recurrent matmul, not to the state before it.
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
        """Width of each of the state's vectors."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def state_size(self) -> int:
        """Floats of state: LSTM has two vectors (h, c), the others one."""
        return self.units * (2 if self.cell == "lstm" else 1)


@dataclass(frozen=True)
class Dense:
    """A dense layer: kernel float32 (inputs, units), bias float32 (units,)."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str = "linear"


@dataclass(frozen=True)
class Add:
    """An elementwise sum of the inputs."""


@dataclass(frozen=True)
class Concatenate:
    """A concatenation of the inputs along the last axis."""


Operation = Embedding | Recurrent | Dense | Add | Concatenate


@dataclass(frozen=True)
class Step:
    """An operation, and the indices of its input steps; an embedding has none, its input is the token."""

    operation: Operation
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Network:
    """The operations for a token in topological order, and the output layer."""

    steps: tuple[Step, ...]  # each after its inputs; the last one is the top of the network
    output: Dense  # linear: a final softmax is dropped

    @property
    def embedding(self) -> Embedding:
        operation = self.steps[0].operation
        assert isinstance(operation, Embedding), "read_network begins with one"
        return operation

    @property
    def recurrent(self) -> list[Recurrent]:
        return [step.operation for step in self.steps if isinstance(step.operation, Recurrent)]

    @property
    def cell(self) -> str | None:
        """Kind of the recurrent layers; None if they differ."""
        kinds = {layer.cell for layer in self.recurrent}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def vocab_size(self) -> int:
        """V, width of the output layer."""
        return int(self.output.kernel.shape[1])

    @property
    def output_size(self) -> int:
        """U, input width of the output layer."""
        return int(self.output.kernel.shape[0])

    @property
    def state_size(self) -> int:
        """S, floats of state per sequence."""
        return sum(layer.state_size for layer in self.recurrent)

    def sha256(self) -> str:
        """Hash every operation with its inputs, options and arrays: equal hashes mean equal models."""
        digest = hashlib.sha256()
        for step in (*self.steps, Step(self.output)):
            digest.update(f"{type(step.operation).__name__} {step.inputs}".encode())
            for value in vars(step.operation).values():
                if isinstance(value, np.ndarray):
                    digest.update(str(value.shape).encode())
                    digest.update(np.ascontiguousarray(value, dtype="<f4").tobytes())
                else:
                    digest.update(f" {value}".encode())
        return digest.hexdigest()


def read_network(model: keras.Model) -> Network:
    """Convert a Keras model with carried state.

    The first layer must be an embedding. The last must be Dense (linear or softmax), optionally followed by a separate
    softmax, or the reversed embedding. In between there may be SimpleRNN, LSTM, GRU, Dense, Add and Concatenate layers
    in any order; dropout is dropped.

    Raises:
        UnsupportedModel: another layer, or an option that token-by-token steps do not allow.
    """
    nodes = without_softmax(read_graph(model))
    if not nodes or not isinstance(nodes[0].layer, keras.layers.Embedding) or nodes[0].inputs != (INPUT,):
        raise UnsupportedModel(f"the first layer must be Embedding; {_describe(nodes)}")
    *inner, last = nodes
    # Index of the step of each node.
    steps, indices = list[Step](), {INPUT: INPUT}
    for i, node in enumerate(inner):
        if isinstance(node.layer, _TRAINING_ONLY):
            indices[i] = indices[node.inputs[0]]
            continue
        operation = _read(node)
        if (INPUT in node.inputs) != isinstance(operation, Embedding):
            raise UnsupportedModel(f"the first layer must be Embedding; {_describe(nodes)}")
        steps.append(Step(operation, tuple(indices[index] for index in node.inputs if index != INPUT)))
        indices[i] = len(steps) - 1
    network = Network(tuple(steps), _read_output(last))
    if indices[last.inputs[0]] != len(steps) - 1 or not network.recurrent:
        raise UnsupportedModel(f"recurrent layers must lead to the last layer; {_describe(nodes)}")
    for step in (*network.steps, Step(network.output)):
        arrays = (value for value in vars(step.operation).values() if isinstance(value, np.ndarray))
        if not all(np.isfinite(array).all() for array in arrays):
            raise NotFinite("a weight is NaN or infinite: the training did not converge")
    return network


def without_softmax(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """Drop a final softmax or linear activation layer, unless it follows a Dense layer with an activation."""
    last = nodes[-1].layer if nodes else None
    softmax = isinstance(last, keras.layers.Softmax) or (
        isinstance(last, keras.layers.Activation) and _activation(last) in ("softmax", "linear")
    )
    if not softmax or len(nodes) < 2:
        return nodes
    below = nodes[-2].layer
    return nodes[:-1] if not _is_dense(below) or _activation(_inner(below)) == "linear" else nodes


def _read(node: Node) -> Operation:
    """Convert a layer, or raise `UnsupportedModel` with its name."""
    layer = node.layer
    if type(layer) in NAMES:
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
    # With `return_state`, a layer has further outputs; `read_graph` refuses a model that uses them.
    if layer.go_backwards:
        raise UnsupportedModel(f"layer {layer.name!r}: go_backwards must be False, got True")
    cell, bias = NAMES[type(layer)], layer.cell.bias
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
    # Dense is applied per time step anyway, so `TimeDistributed` changes nothing.
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
        raise UnsupportedModel(f"layer {layer.name!r}: its {name} is not one of Keras's named functions")
    return serialized


def _describe(nodes: Any) -> str:
    return "got " + (", ".join(type(node.layer).__name__ for node in nodes) or "no layer")


def _array(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float32)
