"""Whole sequences through a recurrent layer on a CPU, with gradients of their own, for training.

Same functions as Keras's SimpleRNN, LSTM and GRU layers, same weights, same gradients (tests compare them), less work.
The state comes in and goes out, which is what carried state needs. What makes it fast (measured: `docs/log.md`):

- Within the loop units come first and rows last, (H, B). Then gates are parted without copying, and a step multiplies a
  large matrix by a narrow one, which costs less than the narrow by the large one.
- The input's product is part of the state's: [R | K]ᵀ · [h; x].
- Whatever the way back needs that does not depend on the way back is computed for all steps at once, and each weight's
  gradient is one product over all steps. A step of the way back is one product and a few sums.
- Products may be computed in bfloat16, with sums and everything else in float32.

It runs on one thread at its best; rows are shared out over cores by whoever calls it (`export.training.trainer`).

Shapes: T steps, B rows, D inputs, H units, G gates.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

Arrays = list[tf.Tensor]


def run_layer(
    cell: str,
    inputs: tf.Tensor,
    state: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    mask: tf.Tensor | None = None,
    precision: tf.DType = tf.float32,
) -> tuple[tf.Tensor, Arrays]:
    """Run one layer over a window.

    Args:
        cell: "simple_rnn", "lstm" or "gru".
        inputs: float32 (T, B, D).
        state: [h] or, for LSTM, [h, c]; float32 (B, H) each.
        weights: Keras's kernel (D, G·H), recurrent kernel (H, G·H), bias (G·H,) or, for GRU, (2, G·H).
        mask: float32 (B, H): what of h each gate is given, for recurrent dropout; the same in every step (Gal and
            Ghahramani, https://arxiv.org/abs/1512.05287). What the state keeps is not touched.
        precision: float32 or bfloat16, for the factors of matrix products; their sums are float32 in either.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state:
        windows are truncated there.
    """
    outputs, *new_state = _layer(_CELLS[cell](precision, mask))(inputs, *state, *weights)
    return outputs, [tf.stop_gradient(part) for part in new_state]


def product(a: tf.Tensor, b: tf.Tensor, precision: tf.DType, **transposed: bool) -> tf.Tensor:
    """Multiply two matrices of factors in a precision; the result is float32."""
    return tf.cast(tf.matmul(tf.cast(a, precision), tf.cast(b, precision), **transposed), tf.float32)


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _before(first: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Shift a state's history by one step: what each step started from."""
    return tf.concat([first[None], after[:-1]], axis=0)


def _scan(
    times: tuple[tf.Tensor, tf.Tensor, int],
    step: Callable[[tf.Tensor, Arrays], tuple[Arrays, Arrays]],
    state: Arrays,
    saved: Sequence[tf.DType],
) -> tuple[Arrays, Arrays]:
    """Loop over time.

    Args:
        times: The first t, the number of steps and 1 or -1.
        step: `step(t, state)` returns the new state and what to save.
        state: Before the first step.
        saved: Types of what is saved.

    Returns:
        The state after the last step, and what was saved, stacked (T, …) in order of t.
    """
    first, num_steps, direction = times

    def body(i: tf.Tensor, state: Arrays, arrays: list[Any]) -> tuple[tf.Tensor, Arrays, list[Any]]:
        t = first + direction * i
        state, values = step(t, state)
        return i + 1, state, [array.write(t, value) for array, value in zip(arrays, values, strict=True)]

    start = (tf.constant(0), state, [tf.TensorArray(kind, num_steps) for kind in saved])
    _, state, arrays = tf.while_loop(lambda i, *_: i < num_steps, body, start)
    return state, [array.stack() for array in arrays]


class _Cell:
    """One kind of cell: a step forth, and a step back. Everything in it is (H, B), or (T, H, B) for all steps."""

    num_states = 1
    # What a step forth saves beside the states.
    num_saved = 0
    # Blocks of gradients that a step back saves, each (B, some H).
    num_blocks = 1

    def __init__(self, precision: tf.DType, mask: tf.Tensor | None) -> None:
        self.precision = precision
        self.mask = None if mask is None else tf.transpose(mask)

    def drop(self, h: tf.Tensor) -> tf.Tensor:
        """Return what the gates are given of h, or of its gradient on the way back."""
        return h if self.mask is None else h * self.mask

    def times(self, matrix: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Multiply a matrix that was cast already by columns."""
        return tf.cast(tf.matmul(matrix, tf.cast(columns, self.precision)), tf.float32)

    @abstractmethod
    def prepare(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor) -> Arrays:
        """Lay the weights out as `forth` wants them."""

    @abstractmethod
    def forth(self, x: tf.Tensor, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        """Return the new state and what else to save, for inputs (D, B)."""

    @abstractmethod
    def factors(self, before: Arrays, after: Arrays, saved: Arrays) -> Arrays:
        """Return for all steps what `back` multiplies by: (T, H, B) each."""

    @abstractmethod
    def back(self, d_state: Arrays, factors: Arrays) -> tuple[tf.Tensor, list[tf.Tensor | None], Arrays]:
        """Go a step back.

        Returns:
            What the recurrent kernel is multiplied by, (G·H, B); the state's gradients without that product, None where
            there are none; and the blocks to save, each (some H, B).
        """

    def weight_gradients(self, inputs: tf.Tensor, before: tf.Tensor, blocks: Arrays) -> Arrays:
        """Return the gradients of kernel, recurrent kernel and bias.

        Args:
            inputs: (T·B, D).
            before: (T·B, H), what the gates were given of h.
            blocks: (T·B, some H) each, as `back` saved them.
        """
        (gates,) = blocks
        return [
            product(inputs, gates, self.precision, transpose_a=True),
            product(before, gates, self.precision, transpose_a=True),
            _sum(gates),
        ]

    def input_gradient(self, kernel: tf.Tensor, blocks: Arrays) -> tf.Tensor:
        """Return the gradient of the inputs, (T·B, D)."""
        return product(blocks[0], kernel, self.precision, transpose_b=True)


def _sum(gates: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(gates, tf.float32), axis=0)


class _SimpleRNN(_Cell):
    """h' = tanh(z), z = x·K + h·R + b."""

    def prepare(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor) -> Arrays:
        return [_columns(recurrent_kernel, kernel, self.precision), bias[:, None]]

    def forth(self, x: tf.Tensor, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        both, bias = weights
        return [tf.tanh(self.times(both, _stacked(self.drop(state[0]), x)) + bias)], []

    def factors(self, before: Arrays, after: Arrays, saved: Arrays) -> Arrays:  # noqa: ARG002 - see `_Cell`
        return [1.0 - tf.square(after[0])]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[tf.Tensor, list[tf.Tensor | None], Arrays]:
        gates = d_state[0] * factors[0]
        return gates, [None], [gates]


class _LSTM(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); i, f, o = σ(z), g = tanh(z), z = x·K + h·R + b."""

    num_states = 2
    num_saved = 4

    def prepare(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor) -> Arrays:
        return [_columns(recurrent_kernel, kernel, self.precision), bias[:, None]]

    def forth(self, x: tf.Tensor, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        (h, c), (both, bias) = state, weights
        i, f, g, o = tf.split(self.times(both, _stacked(self.drop(h), x)) + bias, 4)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * c + i * g
        return [o * tf.tanh(c), c], [i, f, g, o]

    def factors(self, before: Arrays, after: Arrays, saved: Arrays) -> Arrays:
        (_, c_before), (_, c), (i, f, g, o) = before, after, saved
        squashed = tf.tanh(c)
        of_c = [g * i * (1.0 - i), c_before * f * (1.0 - f), i * (1.0 - tf.square(g))]
        return [o * (1.0 - tf.square(squashed)), *of_c, squashed * o * (1.0 - o), f]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[tf.Tensor, list[tf.Tensor | None], Arrays]:
        (d_h, d_c), (of_h, of_i, of_f, of_g, of_o, f) = d_state, factors
        d_c = d_c + d_h * of_h
        gates = tf.concat([d_c * of_i, d_c * of_f, d_c * of_g, d_h * of_o], axis=0)
        return gates, [None, d_c * f], [gates]


class _GRU(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    num_saved = 4
    num_blocks = 3

    def prepare(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor) -> Arrays:
        # The reset gate stands between the state's part of the candidate and the input's: two products.
        kernels = [tf.cast(tf.transpose(matrix), self.precision) for matrix in (kernel, recurrent_kernel)]
        return [*kernels, bias[0][:, None], bias[1][:, None]]

    def forth(self, x: tf.Tensor, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        (h,), (kernel, recurrent_kernel, bias, recurrent_bias) = state, weights
        xz, xr, xh = tf.split(self.times(kernel, x) + bias, 3)
        hz, hr, hh = tf.split(self.times(recurrent_kernel, self.drop(h)) + recurrent_bias, 3)
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        candidate = tf.tanh(xh + r * hh)
        return [z * h + (1.0 - z) * candidate], [z, r, candidate, hh]

    def factors(self, before: Arrays, after: Arrays, saved: Arrays) -> Arrays:  # noqa: ARG002 - see `_Cell`
        (h,), (z, r, candidate, hh) = before, saved
        of_candidate = (1.0 - z) * (1.0 - tf.square(candidate))
        return [(h - candidate) * z * (1.0 - z), of_candidate * hh * r * (1.0 - r), of_candidate, r, z]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[tf.Tensor, list[tf.Tensor | None], Arrays]:
        (d_h,), (of_z, of_r, of_candidate, r, z) = d_state, factors
        gates, candidate = tf.concat([d_h * of_z, d_h * of_r], axis=0), d_h * of_candidate
        from_state = candidate * r
        return tf.concat([gates, from_state], axis=0), [d_h * z], [gates, candidate, from_state]

    def weight_gradients(self, inputs: tf.Tensor, before: tf.Tensor, blocks: Arrays) -> Arrays:
        gates, candidate, from_state = blocks
        parts = [
            tf.concat([product(left, block, self.precision, transpose_a=True) for block in pair], axis=1)
            for left, pair in ((inputs, (gates, candidate)), (before, (gates, from_state)))
        ]
        biases = [tf.concat([_sum(gates), _sum(block)], axis=0) for block in (candidate, from_state)]
        return [*parts, tf.stack(biases)]

    def input_gradient(self, kernel: tf.Tensor, blocks: Arrays) -> tf.Tensor:
        gates, candidate, _ = blocks
        units = candidate.shape[1]
        parts = ((gates, kernel[:, : 2 * units]), (candidate, kernel[:, 2 * units :]))
        return tf.add_n([product(block, part, self.precision, transpose_b=True) for block, part in parts])


def _columns(recurrent_kernel: tf.Tensor, kernel: tf.Tensor, precision: tf.DType) -> tf.Tensor:
    """Return [R | K]ᵀ, (G·H, H + D)."""
    return tf.cast(tf.transpose(tf.concat([recurrent_kernel, kernel], axis=0)), precision)


def _stacked(h: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return [h; x], (H + D, B), in the type of x."""
    return tf.concat([tf.cast(h, x.dtype), x], axis=0)


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNN, "lstm": _LSTM, "gru": _GRU}


def _layer(cell: _Cell) -> Callable[..., Any]:
    """Return a layer's function, with its gradient, for inputs (T, B, D), states (B, H) and Keras's weights."""

    @tf.custom_gradient
    def run(inputs, *rest):  # noqa: ANN001, ANN002, ANN202 - traced by TensorFlow
        state, weights = rest[: cell.num_states], rest[cell.num_states :]
        kernel, recurrent_kernel, _ = weights
        num_steps = tf.shape(inputs)[0]
        by_step = tf.cast(tf.transpose(inputs, [0, 2, 1]), cell.precision)
        prepared, first = cell.prepare(*weights), [tf.transpose(part) for part in state]

        def forth(t: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
            state, saved = cell.forth(by_step[t], state, prepared)
            # h is what comes out, and goes out with rows first.
            return state, [tf.transpose(state[0]), *state, *saved]

        kinds = [tf.float32] * (1 + cell.num_states + cell.num_saved)
        last, (outputs, *kept) = _scan((tf.constant(0), num_steps, 1), forth, first, kinds)

        def gradient(d_outputs, *_):  # noqa: ANN001, ANN002, ANN202 - no gradient flows into the last state
            after, saved = kept[: cell.num_states], kept[cell.num_states :]
            before = [_before(*pair) for pair in zip(first, after, strict=True)]
            factors = cell.factors(before, after, saved)
            backward_kernel = tf.cast(recurrent_kernel, cell.precision)

            def back(t: tf.Tensor, d_state: Arrays) -> tuple[Arrays, Arrays]:
                d_state = [d_state[0] + tf.transpose(d_outputs[t]), *d_state[1:]]
                gates, (d_h, *others), blocks = cell.back(d_state, [factor[t] for factor in factors])
                through_gates = cell.drop(cell.times(backward_kernel, gates))
                d_h = through_gates if d_h is None else d_h + through_gates
                return [d_h, *others], [tf.transpose(tf.cast(block, cell.precision)) for block in blocks]

            zeros = [tf.zeros_like(part) for part in first]
            kinds = [cell.precision] * cell.num_blocks
            d_first, blocks = _scan((num_steps - 1, num_steps, -1), back, zeros, kinds)
            blocks = [_flat(block) for block in blocks]
            seen = _before(state[0], outputs)
            seen = seen if cell.mask is None else seen * tf.transpose(cell.mask)
            d_inputs = tf.reshape(cell.input_gradient(kernel, blocks), tf.shape(inputs))
            d_weights = cell.weight_gradients(_flat(inputs), _flat(seen), blocks)
            return d_inputs, *[tf.transpose(part) for part in d_first], *d_weights

        return (outputs, *[tf.transpose(part) for part in last]), gradient

    return run
