"""One time step of a recurrent network, optimized for generation: few operations, no dropout, no Keras layers.

Every signature runs this same step token by token, so states from `decode` and `prefill` are bit-exact. Knows cells and
their connections. Does not know sampling, signatures or training.

A layer whose only input is the embedding has one of V possible inputs, so embedding · kernel + bias is precomputed for
all of them: a step is a table lookup and one matmul by the recurrent kernel (measured: `docs/log.md`).
"""

import functools
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from contract import signatures
from contract.card import Trace
from export.graphs.loop import select_active
from export.graphs.network import Add, Concatenate, Dense, Embedding, Network, Operation, Recurrent

# A larger table of gate inputs costs more memory than its matmul costs time.
MAX_TABLE_BYTES = 64 * 2**20
# The id that Keras's `mask_zero` skips.
PADDING_ID = 0


class LayerOutput(NamedTuple):
    """The results of a layer for one token: float32 (batch, width) each.

    Attributes:
        output: Input of the following layers.
        state: The new state; empty for a stateless layer.
        gates: Gate activations and the candidate; empty for a layer without gates.
    """

    output: tf.Tensor
    state: list[tf.Tensor] = []  # noqa: RUF012 - nobody changes it
    gates: list[tf.Tensor] = []  # noqa: RUF012


class _Layer(tf.Module):
    """Base class of the operations of a step; most have no state."""

    units = 0
    # Trace kinds of its state and of its gates.
    states: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()

    @abstractmethod
    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:
        """Process one token.

        Args:
            token_ids: int32 (batch,).
            inputs: Outputs of its input layers, float32 (batch, width) each.
            state: Its own state vectors, float32 (batch, units) each.
        """


class _Cell(_Layer):
    """Base class of recurrent layers, which map gate inputs (batch, G·units) and a state to a new state."""

    states = (signatures.HIDDEN,)

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.units = layer.units
        self.kernel, self.recurrent_kernel, self.bias, self.recurrent_bias = (
            tf.Variable(array, trainable=False, dtype=tf.float32) for array in self._arrange(layer)
        )
        self.activation, self.gate = _activation(layer.activation), _activation(layer.recurrent_activation)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        """Return kernel, recurrent kernel, bias and recurrent bias, with gates in the order that `step` expects."""
        return layer.kernel, layer.recurrent_kernel, layer.bias, np.zeros(0)

    def gate_inputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Project float32 (batch, inputs) to the gates: (batch, G·units)."""
        return tf.matmul(inputs, self.kernel) + self.bias

    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        """See `_Layer.run`."""
        new, gates = self.step(self.gate_inputs(inputs[0]), state)
        return LayerOutput(new[0], new, gates)

    @abstractmethod
    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return the new state, whose first vector is the layer's output, and the gates."""


class SimpleRNNCell(_Cell):
    """h' = tanh(x + h·R)."""

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `_Cell.step`; the state is [h]."""
        return [self.activation(gate_inputs + tf.matmul(state[0], self.recurrent_kernel))], []


class LSTMCell(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'), with i, f, o = σ(x + h·R) and g = tanh(x + h·R)."""

    states = (signatures.HIDDEN, signatures.CELL)
    gates = (signatures.FORGET, signatures.INPUT, signatures.CANDIDATE, signatures.OUTPUT)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        def sigmoids_first(array: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, f, o, g], axis=-1)

        return (*map(sigmoids_first, (layer.kernel, layer.recurrent_kernel, layer.bias)), np.zeros(0))

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `_Cell.step`; the state is [h, c]."""
        h, c = state
        units = self.units
        gates = gate_inputs + tf.matmul(h, self.recurrent_kernel)
        sigmoids = self.gate(gates[:, : 3 * units])
        candidate = self.activation(gates[:, 3 * units :])
        i, f, o = sigmoids[:, :units], sigmoids[:, units : 2 * units], sigmoids[:, 2 * units :]
        c = f * c + i * candidate
        return [o * self.activation(c), c], [f, i, candidate, o]


class GRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    gates = (signatures.UPDATE, signatures.RESET, signatures.CANDIDATE)

    @staticmethod
    def _arrange(layer: Recurrent) -> tuple[np.ndarray, ...]:
        return layer.kernel, layer.recurrent_kernel, layer.bias[0], layer.bias[1]

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `_Cell.step`; the state is [h]."""
        (h,) = state
        units = self.units
        from_state = tf.matmul(h, self.recurrent_kernel) + self.recurrent_bias
        sigmoids = self.gate(gate_inputs[:, : 2 * units] + from_state[:, : 2 * units])
        update, reset = sigmoids[:, :units], sigmoids[:, units:]
        candidate = self.activation(gate_inputs[:, 2 * units :] + reset * from_state[:, 2 * units :])
        return [update * h + (1.0 - update) * candidate], [update, reset, candidate]


class OriginalGRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + (r⊙h)·R), with z, r = σ(x + h·R): Keras's `reset_after=False`."""

    gates = GRUCell.gates

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """See `_Cell.step`; the state is [h]."""
        (h,) = state
        units = self.units
        gates, last = self.recurrent_kernel[:, : 2 * units], self.recurrent_kernel[:, 2 * units :]
        sigmoids = self.gate(gate_inputs[:, : 2 * units] + tf.matmul(h, gates))
        update, reset = sigmoids[:, :units], sigmoids[:, units:]
        candidate = self.activation(gate_inputs[:, 2 * units :] + tf.matmul(reset * h, last))
        return [update * h + (1.0 - update) * candidate], [update, reset, candidate]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": SimpleRNNCell, "lstm": LSTMCell, "gru": GRUCell}
_FAST = {"tanh": tf.tanh, "sigmoid": tf.sigmoid, "linear": tf.identity}


def _activation(name: str) -> Callable[[tf.Tensor], tf.Tensor]:
    return _FAST.get(name) or keras.activations.get(name)


class _Folded(_Layer):
    """A cell with a precomputed table of gate inputs for every embedding."""

    def __init__(self, cell: _Cell, embedding: np.ndarray) -> None:
        super().__init__()
        self.units, self.states, self.gates, self.cell = cell.units, cell.states, cell.gates, cell
        self.table = tf.Variable(cell.gate_inputs(embedding), trainable=False)

    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        new, gates = self.cell.step(tf.gather(self.table, token_ids), state)
        return LayerOutput(new[0], new, gates)


class _Lookup(_Layer):
    def __init__(self, embedding: Embedding) -> None:
        super().__init__()
        self.table = tf.Variable(embedding.table, trainable=False)

    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        return LayerOutput(tf.gather(self.table, token_ids))


class _Dense(_Layer):
    def __init__(self, dense: Dense) -> None:
        super().__init__()
        self.kernel, self.bias = (tf.Variable(a, trainable=False) for a in (dense.kernel, dense.bias))
        self.activation = _activation(dense.activation)

    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        return LayerOutput(self.activation(tf.matmul(inputs[0], self.kernel) + self.bias))


class _Add(_Layer):
    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        # In fixed order: float addition is not associative, and results must be bit-exact.
        return LayerOutput(functools.reduce(tf.add, inputs))


class _Concatenate(_Layer):
    def run(self, token_ids: tf.Tensor, inputs: list[tf.Tensor], state: list[tf.Tensor]) -> LayerOutput:  # noqa: ARG002 - see `_Layer`
        return LayerOutput(tf.concat(inputs, axis=1))


def _make(operation: Operation) -> _Layer:
    match operation:
        case Recurrent():
            return _CELLS[operation.cell](operation) if operation.reset_after else OriginalGRUCell(operation)
        case Embedding():
            return _Lookup(operation)
        case Dense():
            return _Dense(operation)
        case Add():
            return _Add()
        case Concatenate():
            return _Concatenate()


class StatefulNetwork(tf.Module):
    """A network with carried state: the state vectors of its recurrent layers, in order."""

    # Steps per loop iteration: 4 makes `decode` at batch size 8 10 to 15% faster than 1 (measured: `docs/log.md`).
    unroll = 4

    def __init__(self, network: Network) -> None:
        """Copy the weights into variables, and precompute tables of gate inputs up to `MAX_TABLE_BYTES`."""
        super().__init__()
        self.state_size, self.output_size = network.state_size, network.output_size
        self.vocab_size = network.vocab_size
        self._skips_padding = network.embedding.skips_padding
        self._inputs: list[tuple[int, ...]] = []
        self._layers: list[_Layer] = []
        for step in network.steps:
            layer, inputs = _make(step.operation), step.inputs
            source = network.steps[inputs[0]].operation if inputs else None
            if (
                isinstance(layer, _Cell)
                and isinstance(source, Embedding)
                and _table_bytes(source, layer) <= MAX_TABLE_BYTES
            ):
                layer, inputs = _Folded(layer, source.table), ()
            self._layers.append(layer)
            self._inputs.append(inputs)
        self._output = _make(network.output)

    def split(self, state: tf.Tensor) -> list[tf.Tensor]:
        """Split states float32 (batch, S) into the vectors of each layer, (batch, units) each."""
        sizes = [layer.units for layer in self._layers for _ in layer.states]
        return tf.split(state, sizes, axis=1) if len(sizes) > 1 else [state]

    def join(self, parts: list[tf.Tensor]) -> tf.Tensor:
        """Concatenate state vectors, the inverse of `split`."""
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

    def step(self, token_ids: tf.Tensor, parts: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Process one token per sequence.

        Args:
            token_ids: int32 (batch,).
            parts: The state as returned by `split`.

        Returns:
            The network's output float32 (batch, U), and the new state parts.
        """
        output, new_parts, _ = self.step_with_traces(token_ids, parts)
        return output, new_parts

    @property
    def traces(self) -> list[Trace]:
        """The traces of `step_with_traces`, in order."""
        recurrent = [layer for layer in self._layers if layer.states]
        return [
            Trace(kind, number, layer.units)
            for number, layer in enumerate(recurrent, 1)
            for kind in (*layer.states, *layer.gates)
        ]

    def step_with_traces(
        self, token_ids: tf.Tensor, parts: list[tf.Tensor]
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
        """Process one token per sequence as `step` does, and also return float32 (batch, units) for each trace."""
        outputs: list[tf.Tensor] = []
        new_parts: list[tf.Tensor] = []
        traces: list[tf.Tensor] = []
        for layer, input_indices in zip(self._layers, self._inputs, strict=True):
            old = parts[len(new_parts) : len(new_parts) + len(layer.states)]
            output, new, gates = layer.run(token_ids, [outputs[index] for index in input_indices], old)
            if self._skips_padding and new:
                new = select_active(token_ids != PADDING_ID, new, old)
                output = new[0]
            new_parts += new
            traces += [*new, *gates]
            outputs.append(output)
        return outputs[-1], new_parts, traces

    def project(self, hidden: tf.Tensor) -> tf.Tensor:
        """Project the network's output float32 (batch, U) to logits float32 (batch, V)."""
        return self._output.run(hidden, [hidden], []).output


def _table_bytes(embedding: Embedding, cell: _Cell) -> int:
    return 4 * embedding.table.shape[0] * cell.kernel.shape[1]
