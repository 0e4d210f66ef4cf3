"""One time step of a recurrent network, optimized for generation: few operations, no dropout, no Keras layers.

Every signature runs this same step token by token, so states from `decode` and `prefill` are bit-exact.

A layer whose only input is the embedding has one of V possible inputs, so embedding · kernel + bias is precomputed for
all of them: a step in float32 is a table lookup and one matmul by the recurrent kernel (see `benchmarks/HISTORY.md`).
"""

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Activation
from export.graphs.network import Add, Dense, Embedding, Network, Operation, Recurrent, Step
from export.graphs.precision import BFLOAT16, FLOAT32, Precision, Vectors
from export.graphs.projections import Projection, gather

# A larger table of gate inputs costs more memory than its matmul costs time.
MAX_TABLE_BYTES = 64 * 2**20
# The id that Keras's `mask_zero` skips.
PADDING_ID = 0
# Narrower layers are as fast in float32 (see `benchmarks/HISTORY.md`): their versions have no bfloat16 signatures.
MIN_BFLOAT16_UNITS = 192


class LayerInput(NamedTuple):
    """Inputs of a layer for one token.

    Attributes:
        precision: Products and layout of all vectors.
        token_ids: int32 (batch,).
        inputs: Outputs of its input layers.
        state: Its own state vectors.
    """

    precision: Precision
    token_ids: tf.Tensor
    inputs: Vectors
    state: Vectors

    def project(self, projection: Projection, *vectors: tf.Tensor) -> Vectors:
        """Map vectors and the layer's inputs; return the parts of the projection."""
        return projection(self.precision, [*vectors, *self.inputs], self.token_ids)


# A layer without state, as a function to its output.
Function = Callable[[LayerInput], tf.Tensor]


class _Cell(tf.Module):
    """Base class of recurrent layers. The state is [h], or [h, c]; the layer's output is the new h."""

    # Kinds of activations: its state and its gates.
    states: tuple[str, ...] = (signatures.HIDDEN,)
    gates: tuple[str, ...] = ()

    def __init__(self, layer: Recurrent, *, embedding: np.ndarray | None, with_bfloat16: bool) -> None:
        """Copy the weights; with an embedding, float32 (V, inputs), the layer's input is a token."""
        super().__init__()
        self.units = layer.units
        self.activation, self.gate = _activation(layer.activation), _activation(layer.recurrent_activation)
        self._set_weights(layer, functools.partial(Projection, embedding=embedding, with_bfloat16=with_bfloat16))

    @abstractmethod
    def _set_weights(self, layer: Recurrent, project: Callable[..., Projection]) -> None:
        """Set the projections; `project` makes one whose last vector is the layer's input."""

    @abstractmethod
    def step(self, layer_input: LayerInput) -> tuple[Vectors, Vectors]:
        """Process one token; return the new state and the gates, float32 in the layout of the precision."""


class _SimpleRNNCell(_Cell):
    """h' = tanh(h·R + x·W + b)."""

    def _set_weights(self, layer: Recurrent, project: Callable[..., Projection]) -> None:
        self.sums = project([layer.recurrent_kernel, layer.kernel], layer.bias)

    def step(self, layer_input: LayerInput) -> tuple[Vectors, Vectors]:
        (sums,) = layer_input.project(self.sums, layer_input.state[0])
        return [self.activation(sums)], []


class _LSTMCell(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'), with i, f, o = σ(h·R + x·W + b) and g = tanh(h·R + x·W + b)."""

    states = (signatures.HIDDEN, signatures.CELL)
    gates = (signatures.FORGET, signatures.INPUT, signatures.CANDIDATE, signatures.OUTPUT)

    def _set_weights(self, layer: Recurrent, project: Callable[..., Projection]) -> None:
        self.sums = project([layer.recurrent_kernel, layer.kernel], layer.bias, num_parts=4)

    def step(self, layer_input: LayerInput) -> tuple[Vectors, Vectors]:
        h, c = layer_input.state
        i, f, candidate, o = layer_input.project(self.sums, h)
        i, f, o = self.gate(i), self.gate(f), self.gate(o)
        candidate = self.activation(candidate)
        c = f * c + i * candidate
        return [o * self.activation(c), c], [f, i, candidate, o]


class _GRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙g, with z, r = σ(h·R + x·W + b) and g = tanh(x·W + b + r⊙(h·R + b')).

    This is Keras's `reset_after=True`; `_OriginalGRUCell` is the other variant.
    """

    gates = (signatures.UPDATE, signatures.RESET, signatures.CANDIDATE)

    def _set_weights(self, layer: Recurrent, project: Callable[..., Projection]) -> None:
        (gates, last), (kernel, last_kernel) = (
            np.split(array, [2 * self.units], axis=1) for array in (layer.recurrent_kernel, layer.kernel)
        )
        bias, recurrent_bias = layer.bias
        self.gate_sums = project([gates, kernel], (bias + recurrent_bias)[: 2 * self.units], num_parts=2)
        self.from_input = project([last_kernel], bias[2 * self.units :])
        self.from_state = project([last], recurrent_bias[2 * self.units :], embedding=None)

    def step(self, layer_input: LayerInput) -> tuple[Vectors, Vectors]:
        (h,) = layer_input.state
        update, reset = map(self.gate, layer_input.project(self.gate_sums, h))
        candidate = self.activation(self._candidate_sums(layer_input, reset, h))
        return [update * h + (1.0 - update) * candidate], [update, reset, candidate]

    def _candidate_sums(self, layer_input: LayerInput, reset: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        (from_input,) = layer_input.project(self.from_input)
        (from_state,) = self.from_state(layer_input.precision, [h], layer_input.token_ids)
        return from_input + reset * from_state


class _OriginalGRUCell(_GRUCell):
    """As `_GRUCell`, with g = tanh((r⊙h)·R + x·W + b): Keras's `reset_after=False`."""

    def _set_weights(self, layer: Recurrent, project: Callable[..., Projection]) -> None:
        (gates, last), (kernel, last_kernel), (bias, last_bias) = (
            np.split(array, [2 * self.units], axis=-1) for array in (layer.recurrent_kernel, layer.kernel, layer.bias)
        )
        self.gate_sums = project([gates, kernel], bias, num_parts=2)
        self.candidate_sums = project([last, last_kernel], last_bias)

    def _candidate_sums(self, layer_input: LayerInput, reset: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
        (sums,) = layer_input.project(self.candidate_sums, reset * h)
        return sums


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNNCell, "lstm": _LSTMCell, "gru": _GRUCell}
_FAST = {"tanh": tf.tanh, "sigmoid": tf.sigmoid, "linear": tf.identity}


def _activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    return _FAST.get(name) or keras.activations.get(name)


def _function(operation: Operation, *, with_bfloat16: bool) -> tuple[Function, tf.Variable | Projection | None]:
    """Return a layer without state, and the owner of its weights."""
    match operation:
        case Embedding():
            table = tf.Variable(operation.table, trainable=False)
            return lambda given: given.precision.from_rows(gather(table, given.token_ids)), table
        case Dense():
            sums = Projection([operation.kernel], operation.bias, with_bfloat16=with_bfloat16)
            activation = _activation(operation.activation)
            return lambda given: activation(*given.project(sums)), sums
        case Add():
            # In fixed order: float addition is not associative, and results must be bit-exact.
            return lambda given: functools.reduce(tf.add, given.inputs), None
    return lambda given: given.precision.concatenate(given.inputs), None


class StatefulNetwork(tf.Module):
    """The weights and layers of a network with carried state: the state vectors of its recurrent layers, in order."""

    # Steps per loop iteration: 4 makes `decode` at batch size 8 5 to 15% faster than 1 (see `benchmarks/HISTORY.md`).
    unroll = 4

    def __init__(self, network: Network) -> None:
        """Copy the weights into variables, and precompute tables of gate inputs up to `MAX_TABLE_BYTES`."""
        super().__init__()
        self.state_size, self.output_size = network.state_size, network.output_size
        self.vocab_size = network.vocab_size
        self.has_bfloat16 = with_bfloat16 = max(layer.units for layer in network.recurrent) >= MIN_BFLOAT16_UNITS
        self.skips_padding = network.embedding.skips_padding
        self.inputs: list[tuple[int, ...]] = []
        self.layers: list[_Cell | Function] = []
        self.weights: list[tf.Variable | Projection | None] = []
        for step in network.steps:
            embedding, layer = _folded_embedding(network, step), step.operation
            if isinstance(layer, Recurrent):
                kind = _CELLS[layer.cell] if layer.reset_after else _OriginalGRUCell
                self.layers.append(kind(layer, embedding=embedding, with_bfloat16=with_bfloat16))
            else:
                function, weights = _function(layer, with_bfloat16=with_bfloat16)
                self.layers.append(function)
                self.weights.append(weights)
            self.inputs.append(step.inputs if embedding is None else ())
        self.output_kernel, self.negative_bias = (
            tf.Variable(array, trainable=False) for array in (network.output.kernel, -network.output.bias)
        )

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The supported precisions."""
        return (FLOAT32, BFLOAT16) if self.has_bfloat16 else (FLOAT32,)

    @property
    def state_sizes(self) -> list[int]:
        """Widths of the state's vectors."""
        return [cell.units for cell in self._cells for _ in cell.states]

    @property
    def _cells(self) -> list[_Cell]:
        return [layer for layer in self.layers if isinstance(layer, _Cell)]

    @property
    def activations(self) -> list[Activation]:
        """The activations that `step` returns, in order."""
        return [
            Activation(kind, number, cell.units)
            for number, cell in enumerate(self._cells, 1)
            for kind in (*cell.states, *cell.gates)
        ]

    def step(self, precision: Precision, token_ids: tf.Tensor, state: Vectors) -> tuple[tf.Tensor, Vectors, Vectors]:
        """Process one token per sequence, int32 (batch,), in one of the `precisions`; vectors are in its layout.

        Returns:
            The network's output, U units, the new state, and the `activations`.
        """
        outputs, new_state, activations = Vectors(), Vectors(), Vectors()
        for layer, input_indices in zip(self.layers, self.inputs, strict=True):
            inputs = [outputs[index] for index in input_indices]
            if not isinstance(layer, _Cell):
                outputs.append(layer(LayerInput(precision, token_ids, inputs, [])))
                continue
            old = state[len(new_state) : len(new_state) + len(layer.states)]
            new, gates = layer.step(LayerInput(precision, token_ids, inputs, old))
            if self.skips_padding:
                new = precision.select(token_ids != PADDING_ID, new, old)
            new_state += new
            activations += [*new, *gates]
            outputs.append(new[0])
        return outputs[-1], new_state, activations

    def project(self, rows: tf.Tensor) -> tf.Tensor:
        """Project outputs of `step`, rows float32 (batch, U), to logits float32 (batch, V).

        In float32 always: logits in bfloat16 would have ties, and log probabilities of two digits. The negative bias is
        subtracted, as TensorFlow would fuse a sum with the product and the transposition before it, for which it has
        only a slow kernel: 145 µs instead of 72 for 512 units, 98 tokens and batch size 64.
        """
        return tf.matmul(rows, self.output_kernel) - self.negative_bias


def _folded_embedding(network: Network, step: Step) -> np.ndarray | None:
    """Return the embedding, (V, inputs), if it is the only input of a recurrent layer, with a table not too large."""
    source = network.steps[step.inputs[0]].operation if step.inputs else None
    if not isinstance(step.operation, Recurrent) or not isinstance(source, Embedding):
        return None
    table_bytes = 4 * source.table.shape[0] * step.operation.kernel.shape[1]
    return source.table if table_bytes <= MAX_TABLE_BYTES else None
