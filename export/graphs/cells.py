"""One time step of a recurrent network, optimized for generation: few operations, no dropout, no Keras layers.

Every signature runs this same step token by token, so states from `decode` and `prefill` are bit-exact.

A layer whose only input is the embedding has one of V possible inputs, so embedding · kernel + bias is precomputed for
all of them: a step is a table lookup and one matmul by the recurrent kernel (see `benchmarks/HISTORY.md`).
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
from export.graphs.network import Add, Concatenate, Dense, Embedding, Network, Operation, Recurrent
from export.graphs.precision import BFLOAT16, FLOAT32, Kernel, Precision, Vectors

# A larger table of gate inputs costs more memory than its matmul costs time.
MAX_TABLE_BYTES = 64 * 2**20
# The id that Keras's `mask_zero` skips.
PADDING_ID = 0
# Narrower layers are as fast in float32 (see `benchmarks/HISTORY.md`): their versions have no bfloat16 signatures.
MIN_BFLOAT16_UNITS = 192


class LayerInput(NamedTuple):
    """What a layer reads for one token.

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


# Output, new state and gates with the candidate; the latter two are empty for a layer without any.
LayerOutput = tuple[tf.Tensor, Vectors, Vectors]


class _Layer(tf.Module):
    """Base class of the operations of a step; most have no state."""

    units = 0
    # Kinds of activations: its state and its gates.
    states: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    @abstractmethod
    def run(self, layer_input: LayerInput) -> LayerOutput:
        """Process one token; all results are float32 in the layout of the precision."""


class _Cell(_Layer):
    """Base class of recurrent layers, which map gate inputs of G·units and a state to a new state."""

    states = (signatures.HIDDEN,)

    def __init__(self, layer: Recurrent, *, with_bfloat16: bool) -> None:
        super().__init__()
        self.units = layer.units
        kernel, recurrent_kernel, bias, recurrent_bias = self._arrange(layer)
        self.kernel = Kernel(kernel, with_bfloat16=with_bfloat16)
        self.recurrent_kernels = [
            Kernel(part, with_bfloat16=with_bfloat16) for part in self._split_recurrent(recurrent_kernel)
        ]
        self.bias, self.recurrent_bias = (
            tf.Variable(array, trainable=False, dtype=tf.float32) for array in (bias, recurrent_bias)
        )
        self.activation, self.gate = _activation(layer.activation), _activation(layer.recurrent_activation)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        """Return kernel, recurrent kernel, bias and recurrent bias, with gates in the order that `step` expects."""
        return layer.kernel, layer.recurrent_kernel, layer.bias, np.zeros(0)

    def _split_recurrent(self, kernel: np.ndarray) -> list[np.ndarray]:
        """Return the factors of the state's products, in the order of their computation."""
        return [kernel]

    def gate_inputs(self, precision: Precision, inputs: tf.Tensor) -> tf.Tensor:
        """Project the inputs to the gates, G·units."""
        return precision.add(precision.multiply(inputs, self.kernel), self.bias)

    def run(self, layer_input: LayerInput) -> LayerOutput:
        precision, _, inputs, state = layer_input
        new, gates = self.step(precision, self.gate_inputs(precision, inputs[0]), state)
        return new[0], new, gates

    @abstractmethod
    def step(self, precision: Precision, gate_inputs: tf.Tensor, state: Vectors) -> tuple[Vectors, Vectors]:
        """Return the new state, whose first vector is the layer's output, and the gates; a state is [h], or [h, c]."""


class _SimpleRNNCell(_Cell):
    """h' = tanh(x + h·R)."""

    def step(self, precision: Precision, gate_inputs: tf.Tensor, state: Vectors) -> tuple[Vectors, Vectors]:
        return [self.activation(gate_inputs + precision.multiply(state[0], self.recurrent_kernels[0]))], []


class _LSTMCell(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'), with i, f, o = σ(x + h·R) and g = tanh(x + h·R)."""

    states = (signatures.HIDDEN, signatures.CELL)
    gates = (signatures.FORGET, signatures.INPUT, signatures.CANDIDATE, signatures.OUTPUT)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        def sigmoids_first(array: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, f, o, g], axis=-1)

        return (*map(sigmoids_first, (layer.kernel, layer.recurrent_kernel, layer.bias)), np.zeros(0))

    def step(self, precision: Precision, gate_inputs: tf.Tensor, state: Vectors) -> tuple[Vectors, Vectors]:
        h, c = state
        units = self.units
        gates = gate_inputs + precision.multiply(h, self.recurrent_kernels[0])
        sigmoids, candidate = precision.split(gates, [3 * units, units])
        i, f, o = precision.split(self.gate(sigmoids), [units] * 3)
        candidate = self.activation(candidate)
        c = f * c + i * candidate
        return [o * self.activation(c), c], [f, i, candidate, o]


class _GRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    gates = (signatures.UPDATE, signatures.RESET, signatures.CANDIDATE)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        return layer.kernel, layer.recurrent_kernel, layer.bias[0], layer.bias[1]

    def step(self, precision: Precision, gate_inputs: tf.Tensor, state: Vectors) -> tuple[Vectors, Vectors]:
        (h,) = state
        sizes = [2 * self.units, self.units]
        from_state = precision.add(precision.multiply(h, self.recurrent_kernels[0]), self.recurrent_bias)
        (x_gates, x_last), (h_gates, h_last) = precision.split(gate_inputs, sizes), precision.split(from_state, sizes)
        update, reset = precision.split(self.gate(x_gates + h_gates), [self.units] * 2)
        candidate = self.activation(x_last + reset * h_last)
        return [update * h + (1.0 - update) * candidate], [update, reset, candidate]


class _OriginalGRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + (r⊙h)·R), with z, r = σ(x + h·R): Keras's `reset_after=False`."""

    gates = _GRUCell.gates

    def _split_recurrent(self, kernel: np.ndarray) -> list[np.ndarray]:
        return np.split(kernel, [2 * self.units], axis=1)

    def step(self, precision: Precision, gate_inputs: tf.Tensor, state: Vectors) -> tuple[Vectors, Vectors]:
        (h,) = state
        gates, last = self.recurrent_kernels
        x_gates, x_last = precision.split(gate_inputs, [2 * self.units, self.units])
        update, reset = precision.split(self.gate(x_gates + precision.multiply(h, gates)), [self.units] * 2)
        candidate = self.activation(x_last + precision.multiply(reset * h, last))
        return [update * h + (1.0 - update) * candidate], [update, reset, candidate]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNNCell, "lstm": _LSTMCell, "gru": _GRUCell}
_FAST = {"tanh": tf.tanh, "sigmoid": tf.sigmoid, "linear": tf.identity}


def _activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    return _FAST.get(name) or keras.activations.get(name)


def _gather(table: tf.Variable, token_ids: tf.Tensor) -> tf.Tensor:
    """Return the rows of a table for token ids.

    The value is read first. A session does not inline a function that gathers from the variable itself, as it takes
    that operation to have side effects: in float32 each step was a call (measured: `benchmarks/HISTORY.md`).
    """
    return tf.gather(table.read_value(), token_ids)


class _Folded(_Layer):
    """A cell with a precomputed table of gate inputs for every embedding, float32 in either precision."""

    def __init__(self, cell: _Cell, embedding: np.ndarray) -> None:
        super().__init__()
        self.units, self.states, self.gates, self.cell = cell.units, cell.states, cell.gates, cell
        self.table = tf.Variable(cell.gate_inputs(FLOAT32, embedding), trainable=False)

    def run(self, layer_input: LayerInput) -> LayerOutput:
        precision, token_ids, _, state = layer_input
        new, gates = self.cell.step(precision, precision.from_rows(_gather(self.table, token_ids)), state)
        return new[0], new, gates


class _Lookup(_Layer):
    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.table = tf.Variable(embedding.table, trainable=False)

    def run(self, layer_input: LayerInput) -> LayerOutput:
        return layer_input.precision.from_rows(_gather(self.table, layer_input.token_ids)), [], []


class _Dense(_Layer):
    def __init__(self, dense: Dense, *, with_bfloat16: bool) -> None:
        super().__init__()
        self.kernel = Kernel(dense.kernel, with_bfloat16=with_bfloat16)
        self.bias = tf.Variable(dense.bias, trainable=False)
        self.activation = _activation(dense.activation)

    def run(self, layer_input: LayerInput) -> LayerOutput:
        precision, _, inputs, _ = layer_input
        return self.activation(precision.add(precision.multiply(inputs[0], self.kernel), self.bias)), [], []


class _Add(_Layer):
    def run(self, layer_input: LayerInput) -> LayerOutput:
        # In fixed order: float addition is not associative, and results must be bit-exact.
        return functools.reduce(tf.add, layer_input.inputs), [], []


class _Concatenate(_Layer):
    def run(self, layer_input: LayerInput) -> LayerOutput:
        return layer_input.precision.concatenate(layer_input.inputs), [], []


def _make(operation: Operation, *, with_bfloat16: bool) -> _Layer:
    match operation:
        case Recurrent():
            cell = _CELLS[operation.cell] if operation.reset_after else _OriginalGRUCell
            return cell(operation, with_bfloat16=with_bfloat16)
        case Embedding():
            return _Lookup(operation)
        case Dense():
            return _Dense(operation, with_bfloat16=with_bfloat16)
        case Add():
            return _Add()
        case Concatenate():
            return _Concatenate()


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
        self.layers: list[_Layer] = []
        for step in network.steps:
            layer, inputs = _make(step.operation, with_bfloat16=with_bfloat16), step.inputs
            source = network.steps[inputs[0]].operation if inputs else None
            if isinstance(layer, _Cell) and isinstance(source, Embedding):
                table_bytes = 4 * source.table.shape[0] * step.operation.kernel.shape[1]
                if table_bytes <= MAX_TABLE_BYTES:
                    layer, inputs = _Folded(layer, source.table), ()
            self.layers.append(layer)
            self.inputs.append(inputs)
        # In float32 always: logits in bfloat16 would have ties, and log probabilities of two digits.
        self.output = _make(network.output, with_bfloat16=False)

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that it can compute in."""
        return (FLOAT32, BFLOAT16) if self.has_bfloat16 else (FLOAT32,)

    @property
    def state_sizes(self) -> list[int]:
        """Widths of the state's vectors."""
        return [layer.units for layer in self.layers for _ in layer.states]

    @property
    def activations(self) -> list[Activation]:
        """The activations that `step` returns, in order."""
        recurrent = [layer for layer in self.layers if layer.states]
        return [
            Activation(kind, number, layer.units)
            for number, layer in enumerate(recurrent, 1)
            for kind in (*layer.states, *layer.gates)
        ]

    def step(self, precision: Precision, token_ids: tf.Tensor, state: Vectors) -> tuple[tf.Tensor, Vectors, Vectors]:
        """Process one token per sequence, int32 (batch,), in one of the `precisions`; vectors are in its layout.

        Returns:
            The network's output, U units, the new state, and the `activations`.
        """
        outputs, new_state, activations = Vectors(), Vectors(), Vectors()
        for layer, input_indices in zip(self.layers, self.inputs, strict=True):
            old = state[len(new_state) : len(new_state) + len(layer.states)]
            inputs = [outputs[index] for index in input_indices]
            output, new, gates = layer.run(LayerInput(precision, token_ids, inputs, old))
            if self.skips_padding and new:
                new = precision.select(token_ids != PADDING_ID, new, old)
                output = new[0]
            new_state += new
            activations += [*new, *gates]
            outputs.append(output)
        return outputs[-1], new_state, activations

    def project(self, rows: tf.Tensor) -> tf.Tensor:
        """Project outputs of `step`, rows float32 (batch, U), to logits float32 (batch, V)."""
        return self.output.run(LayerInput(FLOAT32, rows, [rows], []))[0]
