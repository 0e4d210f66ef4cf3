"""Recurrent layers over whole sequences on a CPU, with custom gradients, for training.

They compute the same functions as Keras's SimpleRNN, LSTM and GRU layers, from the same weights and with the same
gradients (tests compare them), but with less work. The state is an input and an output, as carried state needs.
Optimizations (measured: `benchmarks/HISTORY.md`):

- The units of a layer are partitioned over the cores. Each core uses only its own weights. They synchronize once per
  step, to concatenate the state or its gradient.
- Within the loop the layout is units first, batch last: (H, B). Gates are split without copying, and a step multiplies
  a large matrix by a narrow one, which is faster than a narrow one by a large one.
- A step multiplies state, input and a one for the biases by all weights at once, [R | K | b]ᵀ · [h; x; 1]. So does the
  product over all steps that returns the gradients of the weights.
- The forward pass computes the factors of the backward pass while their inputs are in the cache. A step of the backward
  pass is one product and a few sums, written in place over their factors.
- Products may be in bfloat16: factors, biases among them, and results are rounded to it, and so are the gradients of
  the gates' inputs, which are factors. States, activations and sums of results are float32.

Shapes: T steps, batch size B, D inputs, H units, G gates, n of the H units on one core.
"""

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from export.training.time_loop import item, loop, pop, stacked, to_list, transposed_steps

Arrays = list[tf.Tensor]
# oneDNN's products take up to twice as long if their inner dimension isn't a multiple of this (measured:
# `benchmarks/HISTORY.md`).
_MULTIPLE = 32


def run_layer(
    cell: str,
    inputs: tf.Tensor,
    state: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    mask: tf.Tensor | None = None,
    precision: tf.DType = tf.float32,
    parts: int = 1,
) -> tuple[tf.Tensor, Arrays]:
    """Run one layer over a BPTT window.

    Args:
        cell: "simple_rnn", "lstm" or "gru".
        inputs: float32 (T, B, D).
        state: [h] or, for LSTM, [h, c]; float32 (B, H) each.
        weights: Keras's kernel (D, G·H), recurrent kernel (H, G·H), bias (G·H,) or, for GRU, (2, G·H).
        mask: float32 (B, H): recurrent dropout mask of the h that the gates read; the same in every step (Gal and
            Ghahramani, https://arxiv.org/abs/1512.05287). The carried state is not masked.
        precision: float32 or bfloat16, that of matrix products, to which their factors and results are rounded; results
            are then cast to float32.
        parts: Number of partitions of the units, one per core; they are independent within a step.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state: BPTT
        is truncated there.
    """
    kind = _CELLS[cell](precision)

    @tf.custom_gradient
    def run(inputs, *rest):  # noqa: ANN001, ANN002, ANN202 - traced by TensorFlow
        unrolled = _Unrolled(kind, mask, parts, inputs, rest[: kind.num_states], rest[kind.num_states :])
        return unrolled.forward(), unrolled.gradient

    outputs, *new_state = run(inputs, *state, *weights)
    return outputs, [tf.stop_gradient(vectors) for vectors in new_state]


def product(a: tf.Tensor, b: tf.Tensor, precision: tf.DType, **transposed: bool) -> tf.Tensor:
    """Multiply two matrices in a precision, to which the factors are cast; the result is cast to float32."""
    return tf.cast(tf.matmul(tf.cast(a, precision), tf.cast(b, precision), **transposed), tf.float32)


def split(x: tf.Tensor, parts: int, axis: int = 0) -> Arrays:
    """Split an axis of dynamic length into parts whose lengths differ by at most one."""
    if parts == 1:
        return [x]
    bounds = tf.shape(x)[axis] * tf.range(parts + 1) // parts
    # The gradient of a slice would be as large as the whole array.
    return tf.split(x, bounds[1:] - bounds[:-1], axis, num=parts)


def _slices(units: int, parts: int) -> list[slice]:
    bounds = [units * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def _sigmoid_derivative(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙y⊙(1 - y), the derivative by x of factor⊙y with y = σ(x)."""
    return tf.raw_ops.SigmoidGrad(y=y, dy=factor)


def _tanh_derivative(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙(1 - y²), the derivative by x of factor⊙y with y = tanh(x)."""
    return tf.raw_ops.TanhGrad(y=y, dy=factor)


class _Cell:
    """A kind of cell: forward and backward step for a partition of its units. All arrays of a step are (n, B).

    One or two products compute its gates. The left operand has weights and biases, the right operand state, inputs and
    ones.
    """

    num_states = 1
    num_gates = 1
    # Arrays that a forward step saves for the backward step.
    num_factors = 1
    # Which of the gradients that `backward` returns are those of each product; the first product has h·R.
    gradients_of: tuple[tuple[int, ...], ...] = ((0,),)

    def __init__(self, precision: tf.DType) -> None:
        self.precision = precision

    def matrices(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, padding: int) -> Arrays:
        """Return the transposed left operand of each product, (K, G·H).

        The biases are the first of the last `padding` rows, which are otherwise zero.
        """
        return [tf.concat([recurrent_kernel, kernel, _padded(bias, padding)], axis=0)]

    def operands(self, h: Arrays, x: tf.Tensor, padding: int, axis: int) -> Arrays:  # noqa: ARG002 - of other cells
        """Return the right operand of each product, concatenated along an axis, which then has length K.

        `h` is that of all parts. Along the axis, the last `padding` entries of `x` are a one and then zeros.
        """
        return [tf.concat([*h, x], axis)]

    def split(self, d_matrices: Arrays, num_inputs: int) -> Arrays:
        """Return the gradients of kernel, recurrent kernel and bias, from those of `matrices`."""
        (gradient,), num_units = d_matrices, d_matrices[0].shape[1] // self.num_gates
        end = num_units + num_inputs
        return [gradient[num_units:end], gradient[:num_units], gradient[end]]

    def gates(self, matrix: tf.Tensor, operand: tf.Tensor) -> Arrays:
        """Return the product (G·n, K) · (K, B), split by gate: float32 (n, B) each."""
        return [tf.cast(part, tf.float32) for part in tf.split(tf.matmul(matrix, operand), self.num_gates)]

    @abstractmethod
    def forward(self, products: list[Arrays], state: Arrays) -> tuple[Arrays, Arrays]:
        """Return the new state and the factors for `backward`, from the gates of each product."""

    @abstractmethod
    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        """Return the gradients of the gates' inputs, and those of the state except the part through h·R."""


class _SimpleRNN(_Cell):
    """h' = tanh(z), z = x·K + h·R + b."""

    def forward(self, products: list[Arrays], state: Arrays) -> tuple[Arrays, Arrays]:  # noqa: ARG002 - see `_Cell`
        ((z,),) = products
        h = tf.tanh(z)
        return [h], [1.0 - tf.square(h)]

    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        return [d_state[0] * factors[0]], [None]


class _LSTM(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); i, f, o = σ(z), g = tanh(z), z = x·K + h·R + b."""

    num_states = 2
    num_gates = 4
    num_factors = 6
    gradients_of = ((0, 1, 2, 3),)

    def forward(self, products: list[Arrays], state: Arrays) -> tuple[Arrays, Arrays]:
        ((i, f, g, o),) = products
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * state[1] + i * g
        squashed = tf.tanh(c)
        of_c = [_sigmoid_derivative(i, g), _sigmoid_derivative(f, state[1]), _tanh_derivative(g, i)]
        return [o * squashed, c], [_tanh_derivative(squashed, o), *of_c, _sigmoid_derivative(o, squashed), f]

    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h, d_c), (of_h, of_i, of_f, of_g, of_o, f) = d_state, factors
        d_c = d_c + d_h * of_h
        return [d_c * of_i, d_c * of_f, d_c * of_g, d_h * of_o], [None, d_c * f]


class _GRU(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    num_gates = 3
    num_factors = 5
    # The reset gate separates the candidate's gradient by x·K from that by h·R.
    gradients_of = (0, 1, 3), (0, 1, 2)

    def matrices(self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, padding: int) -> Arrays:
        pairs = zip((recurrent_kernel, kernel), (bias[1], bias[0]), strict=True)
        return [tf.concat([matrix, _padded(own, padding)], axis=0) for matrix, own in pairs]

    def operands(self, h: Arrays, x: tf.Tensor, padding: int, axis: int) -> Arrays:
        *_, ones = tf.split(x, [x.shape[axis] - padding, padding], axis)
        return [tf.concat([*h, ones], axis), x]

    def split(self, d_matrices: Arrays, num_inputs: int) -> Arrays:
        (by_state, by_inputs), num_units = d_matrices, d_matrices[0].shape[1] // self.num_gates
        biases = tf.stack([by_inputs[num_inputs], by_state[num_units]])
        return [by_inputs[:num_inputs], by_state[:num_units], biases]

    def forward(self, products: list[Arrays], state: Arrays) -> tuple[Arrays, Arrays]:
        ((hz, hr, hh), (xz, xr, xh)), (h,) = products, state
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        candidate = tf.tanh(xh + r * hh)
        difference, of_candidate = h - candidate, _tanh_derivative(candidate, 1.0 - z)
        of_gates = [_sigmoid_derivative(z, difference), _sigmoid_derivative(r, of_candidate * hh)]
        return [candidate + z * difference], [*of_gates, of_candidate, r, z]

    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h,), (of_z, of_r, of_candidate, r, z) = d_state, factors
        candidate = d_h * of_candidate
        return [d_h * of_z, d_h * of_r, candidate, candidate * r], [d_h * z]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNN, "lstm": _LSTM, "gru": _GRU}


class _Unrolled:
    """A layer unrolled over the steps of one call: the forward loop, and the backward loop over its saved values.

    State vectors, masks and saved values are lists with one entry per part of the units.
    """

    def __init__(
        self,
        cell: _Cell,
        mask: tf.Tensor | None,
        parts: int,
        inputs: tf.Tensor,
        state: Sequence[tf.Tensor],
        weights: Sequence[tf.Tensor],
    ) -> None:
        self._cell, self._mask, self._state, self._weights = cell, mask, state, weights
        self._num_steps, self._unit_slices = tf.shape(inputs)[0], _slices(state[0].shape[1], parts)
        self._padding = _MULTIPLE - inputs.shape[2] % _MULTIPLE
        ones = tf.one_hot(tf.zeros(tf.shape(inputs)[:2], tf.int32), self._padding, dtype=cell.precision)
        self._inputs = tf.concat([tf.cast(inputs, cell.precision), ones], axis=-1)
        x = transposed_steps(self._inputs)
        self._spec_x = tf.TensorSpec(x.shape[1:], cell.precision)
        self._xs = to_list(x, self._spec_x)
        matrices = [tf.cast(matrix, cell.precision) for matrix in cell.matrices(*weights, self._padding)]
        self._matrices = [[tf.transpose(part) for part in self._columns(matrix)] for matrix in matrices]
        self._first = [[tf.transpose(vectors[:, units]) for vectors in state] for units in self._unit_slices]
        self._masks = [None if mask is None else tf.transpose(mask[:, units]) for units in self._unit_slices]
        self._specs = [tf.TensorSpec(vectors[0].shape) for vectors in self._first]

    def _columns(self, matrix: tf.Tensor) -> Arrays:
        """Return the columns of each part of the units, (K, G·n), of (K, G·H)."""
        by_gate = tf.reshape(matrix, [matrix.shape[0], self._cell.num_gates, -1])
        return [tf.reshape(by_gate[:, :, units], [matrix.shape[0], -1]) for units in self._unit_slices]

    def forward(self) -> tuple[tf.Tensor, ...]:
        """Return the outputs (T, B, H) and the last state, (B, H) each."""
        saved_specs = [[spec] * (1 + self._cell.num_factors) for spec in self._specs]
        last, self._saved = loop((0, self._num_steps, 1), self._forward_step, self._first, saved_specs)
        self._outputs = [
            transposed_steps(stacked(lists[0], spec)) for lists, spec in zip(self._saved, self._specs, strict=True)
        ]
        last_state = _joined(last)
        return tf.concat(self._outputs, axis=-1), *last_state

    def _forward_step(self, t: tf.Tensor, states: list[Arrays]) -> tuple[list[Arrays], list[Arrays]]:
        """Return the new states, and for each part the new h and the factors of its backward step."""
        precision = self._cell.precision
        masked = [tf.cast(_masked(h, keep), precision) for (h, *_), keep in zip(states, self._masks, strict=True)]
        operands = self._cell.operands(masked, item(self._xs, t, self._spec_x), self._padding, axis=0)
        steps = []
        for matrices, state in zip(zip(*self._matrices, strict=True), states, strict=True):
            products = [self._cell.gates(*pair) for pair in zip(matrices, operands, strict=True)]
            steps.append(self._cell.forward(products, state))
        return [new for new, _ in steps], [[new[0], *factors] for new, factors in steps]

    def gradient(self, d_outputs: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Return the gradients of inputs, first state and weights; no gradient flows into the last state."""
        d_first, d_gates = self._backward(d_outputs)
        d_kernel, *d_others = self._cell.split(self._d_matrices(d_gates), self._weights[0].shape[0])
        return self._d_inputs(d_gates), *_joined(d_first), d_kernel, *d_others

    def _backward(self, d_outputs: tf.Tensor) -> tuple[list[Arrays], list[Arrays]]:
        """Return the gradients of the first states, and those of the gates' inputs in all steps, (n, T·B) each."""
        cell = self._cell
        columns = self._columns(tf.cast(self._weights[1], cell.precision))
        kernels = [tf.concat([part[units] for part in columns], axis=1) for units in self._unit_slices]

        def step(_t: tf.Tensor, states: tuple[list[Arrays], list[Arrays]]) -> Any:
            gates, direct, remaining = self._backward_cells(*states)
            return (self._through_recurrent_kernels(kernels, gates, direct), remaining), gates

        zeros = tf.nest.map_structure(tf.zeros_like, self._first)
        saved = [
            [to_list(transposed_steps(d_outputs[:, :, units]), spec), *lists[1:]]
            for units, spec, lists in zip(self._unit_slices, self._specs, self._saved, strict=True)
        ]
        num_gradients = 1 + max(itertools.chain(*cell.gradients_of))
        specs = [[tf.TensorSpec(spec.shape, cell.precision)] * num_gradients for spec in self._specs]
        times = self._num_steps - 1, self._num_steps, -1
        (d_first, _), d_gates = loop(times, step, (zeros, saved), specs)
        gates = [
            [_rows(stacked(items, spec)) for items, spec in zip(*part, strict=True)]
            for part in zip(d_gates, specs, strict=True)
        ]
        return d_first, gates

    def _backward_cells(
        self, d_states: list[Arrays], saved: list[Arrays]
    ) -> tuple[list[Arrays], list[list[tf.Tensor | None]], list[Arrays]]:
        """Pop the last step's values, and return the gradients of the gates' inputs and of the state, and the rest."""
        gates, direct, remaining = [], [], []
        for (d_h, *d_others), lists in zip(d_states, saved, strict=True):
            shorter, (d_output, *factors) = zip(*[pop(items, d_h) for items in lists], strict=True)
            into_gates, into_state = self._cell.backward([d_h + d_output, *d_others], factors)
            gates.append([tf.cast(d_gate, self._cell.precision) for d_gate in into_gates])
            direct.append(into_state)
            remaining.append(list(shorter))
        return gates, direct, remaining

    def _through_recurrent_kernels(
        self, kernels: Arrays, gates: list[Arrays], direct: list[list[tf.Tensor | None]]
    ) -> list[Arrays]:
        """Return the gradients of the state before a step: the direct ones plus those through h·R."""
        into_recurrent = tf.concat([part[k] for part in gates for k in self._cell.gradients_of[0]], axis=0)
        d_states = []
        for kernel, keep, (d_h, *d_others) in zip(kernels, self._masks, direct, strict=True):
            through_gates = _masked(product(kernel, into_recurrent, self._cell.precision), keep)
            d_states.append([through_gates if d_h is None else d_h + through_gates, *d_others])
        return d_states

    def _d_matrices(self, d_gates: list[Arrays]) -> Arrays:
        """Return the gradient of the matrix of each product, (K, G·H), over all steps at once."""
        cell, gradients = self._cell, []
        before = [tf.cast(h, cell.precision) for h in self._states_before()]
        operands = cell.operands(before, self._inputs, self._padding, axis=-1)
        for operand, indices in zip(operands, cell.gradients_of, strict=True):
            rows = tf.reshape(operand, [-1, operand.shape[-1]])
            blocks = [tf.transpose(tf.matmul(part[k], rows)) for k in indices for part in d_gates]
            gradients.append(tf.concat([tf.cast(block, tf.float32) for block in blocks], axis=1))
        return gradients

    def _d_inputs(self, d_gates: list[Arrays]) -> tf.Tensor:
        """Return the gradient of the inputs, (T, B, D)."""
        kernel, blocks = self._weights[0], [part[k] for k in self._cell.gradients_of[-1] for part in d_gates]
        columns = tf.split(tf.cast(kernel, self._cell.precision), [block.shape[0] for block in blocks], axis=1)
        products = [tf.cast(tf.matmul(*pair), tf.float32) for pair in zip(columns, blocks, strict=True)]
        return tf.transpose(tf.reshape(tf.add_n(products), [kernel.shape[0], self._num_steps, -1]), [1, 2, 0])

    def _states_before(self) -> Arrays:
        """Return the masked h before each step, (T, B, n) for each part."""
        before = [
            tf.concat([self._state[0][None, :, units], h[:-1]], 0)
            for units, h in zip(self._unit_slices, self._outputs, strict=True)
        ]
        masks = [None if self._mask is None else self._mask[:, units] for units in self._unit_slices]
        return [_masked(h, keep) for h, keep in zip(before, masks, strict=True)]


def _joined(states: list[Arrays]) -> Arrays:
    """Return the state vectors of all parts of the units, (B, H) each."""
    return [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*states, strict=True)]


def _masked(h: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    return h if mask is None else h * mask


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Return (T, n, B) as (n, T·B). It copies B numbers at a time, which is faster than an element-wise transpose."""
    return tf.reshape(tf.transpose(x, [1, 0, 2]), [x.shape[1], -1])


def _padded(bias: tf.Tensor, padding: int) -> tf.Tensor:
    """Return biases (G·H,) and rows of zeros, (padding, G·H)."""
    return tf.pad(bias[None], [[0, padding - 1], [0, 0]])
