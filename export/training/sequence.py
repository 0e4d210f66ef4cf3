"""Recurrent layers over whole sequences on a CPU, with custom gradients, for training.

They compute the same functions as Keras's SimpleRNN, LSTM and GRU layers, from the same weights and with the same
gradients (tests compare them), but with less work. The state is an input and an output, as carried state needs.
Optimizations (measured: `docs/log.md`):

- The units of a layer are partitioned over the cores. Each core uses only its own weights. They synchronize once per
  step, to concatenate the state or its gradient.
- Within the loop the layout is units first, batch last: (H, B). Gates are split without copying, and a step multiplies
  a large matrix by a narrow one, which is faster than a narrow one by a large one.
- The products of input and state are fused: [R | K]ᵀ · [h; x].
- The forward pass computes the factors of the backward pass while their inputs are in the cache. A step of the backward
  pass is one product and a few sums, written in place over their factors. Gradients of weights are products over all
  steps.
- Products may use bfloat16 factors; sums and everything else are float32.

Shapes: T steps, batch size B, D inputs, H units, G gates, n of the H units on one core.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from export.training.time_loop import item, loop, pop, stacked, to_list, turned

Arrays = list[tf.Tensor]


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
        precision: float32 or bfloat16, for the factors of matrix products; their sums are always float32.
        parts: Number of partitions of the units, one per core; they are independent within a step.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state: BPTT
        is truncated there.
    """
    outputs, *new_state = _layer(_CELLS[cell](precision), mask, parts)(inputs, *state, *weights)
    return outputs, [tf.stop_gradient(vectors) for vectors in new_state]


def product(a: tf.Tensor, b: tf.Tensor, precision: tf.DType, **transposed: bool) -> tf.Tensor:
    """Multiply two matrices whose factors are cast to a precision; the result is float32."""
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


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _sigmoid_derivative(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙y⊙(1 - y), the derivative by x of factor⊙y with y = σ(x)."""
    return tf.raw_ops.SigmoidGrad(y=y, dy=factor)


def _tanh_derivative(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙(1 - y²), the derivative by x of factor⊙y with y = tanh(x)."""
    return tf.raw_ops.TanhGrad(y=y, dy=factor)


class _Cell:
    """A kind of cell: forward and backward step for a partition of its units. All arrays are (n, B)."""

    num_states = 1
    num_gates = 1
    # Arrays that a forward step saves for the backward step.
    num_factors = 1
    # Number of gradients that `backward` returns, and the indices of those of x·K and of h·R.
    num_gradients = 1
    of_kernel: tuple[int, ...] = (0,)
    of_recurrent_kernel: tuple[int, ...] = (0,)

    def __init__(self, precision: tf.DType) -> None:
        self.precision = precision

    def times(self, matrix: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Multiply a matrix by columns, both already cast to the precision."""
        return tf.cast(tf.matmul(matrix, columns), tf.float32)

    def turned(self, matrices: Sequence[tf.Tensor], unit_slices: Sequence[slice]) -> Arrays:
        """Return for each part of the units its columns of [(K, G·H) …], transposed: (G·n, all K) in the precision."""

        def of(matrix: tf.Tensor, part: slice) -> tf.Tensor:
            by_gate = tf.reshape(matrix, [matrix.shape[0], self.num_gates, -1])[:, :, part]
            return tf.transpose(tf.cast(tf.reshape(by_gate, [matrix.shape[0], -1]), self.precision))

        return [tf.concat([of(matrix, part) for matrix in matrices], 1) for part in unit_slices]

    def columns(self, bias: tf.Tensor, unit_slices: Sequence[slice]) -> list[Arrays]:
        """Return for each part of the units its values of (G·H,), as (n, 1) for each gate."""
        by_gate = tf.reshape(bias, [self.num_gates, -1, 1])
        return [tf.unstack(by_gate[:, part]) for part in unit_slices]

    def gates(self, matrix: tf.Tensor, columns: tf.Tensor, biases: Arrays) -> Arrays:
        """Return the product (G·n, K) · (K, B) plus biases, split by gate: (n, B) each."""
        parts = tf.split(tf.matmul(matrix, columns), self.num_gates)
        return [tf.cast(part, tf.float32) + bias for part, bias in zip(parts, biases, strict=True)]

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, unit_slices: Sequence[slice]
    ) -> list[Arrays]:
        """Return the weights of each part in the layout of `forward`."""
        fused = self.turned([recurrent_kernel, kernel], unit_slices)
        return [list(pair) for pair in zip(fused, self.columns(bias, unit_slices), strict=True)]

    def gather(self, h: Arrays, x: tf.Tensor) -> Any:
        """Return the input of every part's `forward`, from the h of all parts and x (D, B)."""
        return tf.concat([*h, x], axis=0)

    @abstractmethod
    def forward(self, gathered: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        """Return the new state and the factors for `backward`; `gathered` is as `gather` returned it."""

    @abstractmethod
    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        """Return the gradients of the gates' inputs, and those of the state except the part through h·R."""


class _SimpleRNN(_Cell):
    """h' = tanh(z), z = x·K + h·R + b."""

    def forward(self, gathered: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:  # noqa: ARG002 - see `_Cell`
        fused, biases = weights
        h = tf.tanh(self.gates(fused, gathered, biases)[0])
        return [h], [1.0 - tf.square(h)]

    def backward(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        return [d_state[0] * factors[0]], [None]


class _LSTM(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); i, f, o = σ(z), g = tanh(z), z = x·K + h·R + b."""

    num_states = 2
    num_gates = 4
    num_factors = 6
    num_gradients = 4
    of_kernel = of_recurrent_kernel = (0, 1, 2, 3)

    def forward(self, gathered: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        fused, biases = weights
        i, f, g, o = self.gates(fused, gathered, biases)
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
    num_gradients = 4
    of_kernel = (0, 1, 2)
    of_recurrent_kernel = (0, 1, 3)

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, unit_slices: Sequence[slice]
    ) -> list[Arrays]:
        weights = [self.turned([kernel], unit_slices), self.turned([recurrent_kernel], unit_slices)]
        biases = [self.columns(bias[0], unit_slices), self.columns(bias[1], unit_slices)]
        return [list(part) for part in zip(*weights, *biases, strict=True)]

    def gather(self, h: Arrays, x: tf.Tensor) -> Any:
        return tf.concat(h, axis=0), x

    def forward(self, gathered: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        (all_h, x), (h,), (kernel, recurrent_kernel, biases, recurrent_biases) = gathered, state, weights
        xz, xr, xh = self.gates(kernel, x, biases)
        hz, hr, hh = self.gates(recurrent_kernel, all_h, recurrent_biases)
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


def _layer(cell: _Cell, mask: tf.Tensor | None, parts: int) -> Callable[..., Any]:
    """Return the function of a layer and its gradient, for inputs (T, B, D), states (B, H) and Keras's weights."""
    precision = cell.precision

    @tf.custom_gradient
    def run(inputs, *rest):  # noqa: ANN001, ANN002, ANN202 - traced by TensorFlow
        state, weights = rest[: cell.num_states], rest[cell.num_states :]
        num_steps, unit_slices = tf.shape(inputs)[0], _slices(state[0].shape[1], parts)
        x = tf.cast(turned(inputs), precision)
        xs, spec_x = to_list(x), tf.TensorSpec(x.shape[1:], precision)
        prepared = cell.prepare(*weights, unit_slices)
        first = [[tf.transpose(vectors[:, units]) for vectors in state] for units in unit_slices]
        masks = [None if mask is None else tf.transpose(mask[:, units]) for units in unit_slices]

        def forward(t: tf.Tensor, states: list[Arrays]) -> Any:
            masked = [tf.cast(_masked(h, keep), precision) for (h, *_), keep in zip(states, masks, strict=True)]
            gathered = cell.gather(masked, item(xs, t, spec_x))
            steps = [cell.forward(gathered, *part) for part in zip(states, prepared, strict=True)]
            return [new for new, _ in steps], [[new[0], *factors] for new, factors in steps]

        specs = [tf.TensorSpec([vectors[0].shape[0], None]) for vectors in first]
        last, saved = loop((0, num_steps, 1), forward, first, [[spec] * (1 + cell.num_factors) for spec in specs])
        own_outputs = [turned(stacked(lists[0], spec)) for lists, spec in zip(saved, specs, strict=True)]

        def gradient(d_outputs, *_):  # noqa: ANN001, ANN002, ANN202 - no gradient flows into the last state
            recurrent_kernels = [tf.cast(weights[1][units], precision) for units in unit_slices]

            def backward(_t: tf.Tensor, states: tuple[list[Arrays], list[Arrays]]) -> Any:
                gates, direct, remaining = [], [], []
                for (d_h, *d_others), lists in zip(*states, strict=True):
                    shorter, (d_output, *factors) = zip(*[pop(items, d_h) for items in lists], strict=True)
                    into_gates, into_state = cell.backward([d_h + d_output, *d_others], factors)
                    gates.append([tf.cast(d_gate, precision) for d_gate in into_gates])
                    direct.append(into_state)
                    remaining.append(list(shorter))
                into_recurrent = tf.concat([part[k] for k in cell.of_recurrent_kernel for part in gates], axis=0)
                d_states = []
                for kernel, keep, (d_h, *d_others) in zip(recurrent_kernels, masks, direct, strict=True):
                    through_gates = _masked(cell.times(kernel, into_recurrent), keep)
                    d_states.append([through_gates if d_h is None else d_h + through_gates, *d_others])
                return (d_states, remaining), gates

            zeros = tf.nest.map_structure(tf.zeros_like, first)
            read = [
                [to_list(turned(d_outputs[:, :, units])), *lists[1:]]
                for units, lists in zip(unit_slices, saved, strict=True)
            ]
            specs_gates = [[tf.TensorSpec(spec.shape, precision)] * cell.num_gradients for spec in specs]
            (d_first, _), d_gates = loop((num_steps - 1, num_steps, -1), backward, (zeros, read), specs_gates)
            gates = [
                [_flat(turned(stacked(items, spec))) for items, spec in zip(*part, strict=True)]
                for part in zip(d_gates, specs_gates, strict=True)
            ]
            # The masked h before each step.
            before = [
                tf.concat([state[0][None, :, units], h[:-1]], 0)
                for units, h in zip(unit_slices, own_outputs, strict=True)
            ]
            before = [
                _masked(h, None if mask is None else mask[:, units])
                for units, h in zip(unit_slices, before, strict=True)
            ]
            d_state = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*d_first, strict=True)]
            d_inputs, *d_weights = _products(cell, inputs, before, gates, weights)
            return d_inputs, *d_state, *d_weights

        last = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*last, strict=True)]
        return (tf.concat(own_outputs, axis=-1), *last), gradient

    return run


def _products(
    cell: _Cell, inputs: tf.Tensor, before: Arrays, gates: list[Arrays], weights: Sequence[tf.Tensor]
) -> Arrays:
    """Return the gradients of inputs, kernel, recurrent kernel and bias, over all steps at once.

    Args:
        cell: The kind of cell.
        inputs: (T, B, D).
        before: (T, B, n) for each part: the masked h before each step.
        gates: (T·B, n) each: for each part the gradients that `backward` returned.
        weights: Kernel, recurrent kernel and bias.
    """
    (kernel, _, bias), precision, parts = weights, cell.precision, len(before)
    of_kernel, of_recurrent_kernel = (
        [part[k] for k in indices for part in gates] for indices in (cell.of_kernel, cell.of_recurrent_kernel)
    )
    flat = _flat(inputs)
    columns = [flat[:, features] for features in _slices(flat.shape[1], parts)]
    sums = [_sums(blocks, precision) for blocks in (of_kernel, of_recurrent_kernel)]
    return [
        tf.reshape(_by_kernel(of_kernel, kernel, precision, parts), tf.shape(inputs)),
        _by_columns(columns, of_kernel, precision),
        _by_columns([_flat(h) for h in before], of_recurrent_kernel, precision),
        tf.stack(sums) if len(bias.shape) > 1 else sums[0],
    ]


def _masked(h: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    return h if mask is None else h * mask


def _by_columns(columns: Arrays, blocks: Arrays, precision: tf.DType) -> tf.Tensor:
    """Return [columns …]ᵀ · [blocks …], (K, G·H) of (T·B, some K) and (T·B, some G·H): one product per pair."""
    rows = [tf.concat([product(part, block, precision, transpose_a=True) for block in blocks], 1) for part in columns]
    return tf.concat(rows, axis=0)


def _sums(blocks: Arrays, precision: tf.DType) -> tf.Tensor:
    """Return the sums of columns, (G·H,). A product with ones takes a tenth of the time of TensorFlow's sum."""
    ones = tf.ones([1, tf.shape(blocks[0])[0]], precision)
    return tf.concat([product(ones, block, precision)[0] for block in blocks], axis=0)


def _by_kernel(blocks: Arrays, kernel: tf.Tensor, precision: tf.DType, parts: int) -> tf.Tensor:
    """Return [blocks …] · Kᵀ, (T·B, D), partitioned by rows."""
    matrices = tf.split(tf.cast(kernel, precision), [block.shape[1] for block in blocks], axis=1)
    rows = []
    for part in zip(*[split(block, parts) for block in blocks], strict=True):
        pairs = zip(part, matrices, strict=True)
        rows.append(tf.add_n([product(block, matrix, precision, transpose_b=True) for block, matrix in pairs]))
    return tf.concat(rows, axis=0)
