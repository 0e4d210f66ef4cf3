"""One time step of a stack of recurrent layers, built for generating: few operations, no dropout, no Keras.

Every signature runs this same step, one token after another; that is what makes a state from `decode` equal to the bit
to one from `prefill`. Knows cells. Does not know sampling, signatures or how weights were trained.

The first layer's input is one of V embeddings, so embedding · kernel + bias is computed once for all of them: a step
looks a row up and is left with one matmul by the recurrent kernel (measured: `docs/log.md`).
"""

from abc import abstractmethod

import numpy as np
import tensorflow as tf

from export.weights import LayerWeights, StackWeights

# A larger table of gate inputs costs more memory than its matmul costs time.
MAX_TABLE_BYTES = 64 * 2**20


class _Cell(tf.Module):
    """One layer: gate inputs (batch, G·units) and its state in, its state out."""

    num_states = 1

    def __init__(self, weights: LayerWeights) -> None:
        super().__init__()
        self.units = weights.units
        self.kernel, self.recurrent_kernel, self.bias, self.recurrent_bias = (
            tf.Variable(array, trainable=False, dtype=tf.float32) for array in self._arrange(weights)
        )

    @staticmethod
    def _arrange(weights: LayerWeights) -> tuple[np.ndarray, ...]:
        """Return kernel, recurrent kernel, bias and recurrent bias, gates in the order in which `step` wants them."""
        return weights.kernel, weights.recurrent_kernel, weights.bias, np.zeros(0)

    def gate_inputs(self, inputs: tf.Tensor) -> tf.Tensor:
        """Project float32 (batch, inputs) to the gates: (batch, G·units)."""
        return tf.matmul(inputs, self.kernel) + self.bias

    @abstractmethod
    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the state after one token; its first vector is the layer's output."""


class SimpleRNNCell(_Cell):
    """h' = tanh(x + h·R)."""

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `_Cell.step`; the state is [h]."""
        return [tf.tanh(gate_inputs + tf.matmul(state[0], self.recurrent_kernel))]


class LSTMCell(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'), with i, f, o = σ(x + h·R) and g = tanh(x + h·R)."""

    num_states = 2

    @staticmethod
    def _arrange(weights: LayerWeights) -> tuple[np.ndarray, ...]:
        def sigmoids_first(array: np.ndarray) -> np.ndarray:
            i, f, g, o = np.split(array, 4, axis=-1)
            return np.concatenate([i, f, o, g], axis=-1)

        return (*map(sigmoids_first, (weights.kernel, weights.recurrent_kernel, weights.bias)), np.zeros(0))

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `_Cell.step`; the state is [h, c]."""
        h, c = state
        units = self.units
        gates = gate_inputs + tf.matmul(h, self.recurrent_kernel)
        sigmoids = tf.sigmoid(gates[:, : 3 * units])
        candidate = tf.tanh(gates[:, 3 * units :])
        c = sigmoids[:, units : 2 * units] * c + sigmoids[:, :units] * candidate
        return [sigmoids[:, 2 * units :] * tf.tanh(c), c]


class GRUCell(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    @staticmethod
    def _arrange(weights: LayerWeights) -> tuple[np.ndarray, ...]:
        return weights.kernel, weights.recurrent_kernel, weights.bias[0], weights.bias[1]

    def step(self, gate_inputs: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
        """See `_Cell.step`; the state is [h]."""
        (h,) = state
        units = self.units
        from_state = tf.matmul(h, self.recurrent_kernel) + self.recurrent_bias
        sigmoids = tf.sigmoid(gate_inputs[:, : 2 * units] + from_state[:, : 2 * units])
        update, reset = sigmoids[:, :units], sigmoids[:, units:]
        candidate = tf.tanh(gate_inputs[:, 2 * units :] + reset * from_state[:, 2 * units :])
        return [update * h + (1.0 - update) * candidate]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": SimpleRNNCell, "lstm": LSTMCell, "gru": GRUCell}


class Stack(tf.Module):
    """An embedding and its recurrent layers, from token id to the top layer's output."""

    def __init__(self, weights: StackWeights) -> None:
        """Copy the weights into variables of its own, the gate table folded where it is small."""
        super().__init__()
        self.cells = [_CELLS[weights.cell](layer) for layer in weights.layers]
        self.state_size = weights.state_size
        first = self.cells[0]
        self.folded = weights.embedding.shape[0] * first.kernel.shape[1] * 4 <= MAX_TABLE_BYTES
        table = first.gate_inputs(weights.embedding) if self.folded else weights.embedding
        self.table = tf.Variable(table, trainable=False)

    def split(self, state: tf.Tensor) -> list[tf.Tensor]:
        """Part state rows float32 (batch, S) into the vectors of each layer, (batch, units) each."""
        sizes = [cell.units for cell in self.cells for _ in range(cell.num_states)]
        return tf.split(state, sizes, axis=1) if len(sizes) > 1 else [state]

    def join(self, parts: list[tf.Tensor]) -> tf.Tensor:
        """Undo `split`."""
        return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

    @property
    def output_size(self) -> int:
        """U: width of the top layer's output."""
        return self.cells[-1].units

    def output(self, parts: list[tf.Tensor]) -> tf.Tensor:
        """Return the top layer's output float32 (batch, U) at the last token read, which is a part of the state."""
        return parts[-self.cells[-1].num_states]

    def step(self, token_ids: tf.Tensor, parts: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Read one token per row.

        Args:
            token_ids: int32 (batch,).
            parts: The state as `split` gives it.

        Returns:
            The top layer's output float32 (batch, units), and the new parts.
        """
        rows = tf.gather(self.table, token_ids)
        gate_inputs = rows if self.folded else self.cells[0].gate_inputs(rows)
        new_parts: list[tf.Tensor] = []
        for i, cell in enumerate(self.cells):
            if i > 0:
                gate_inputs = cell.gate_inputs(new_parts[-cell.num_states])
            old = parts[len(new_parts) : len(new_parts) + cell.num_states]
            new_parts += cell.step(gate_inputs, old)
        return self.output(new_parts), new_parts
