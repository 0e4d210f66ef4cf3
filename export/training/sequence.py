"""Whole sequences through a recurrent layer on a CPU, with gradients of their own, for training.

Same functions as Keras's SimpleRNN, LSTM and GRU layers, same weights, same gradients (tests compare them), less work.
The state comes in and goes out, which is what carried state needs. What makes it fast (measured: `docs/log.md`):

- A layer is cut into parts of its units, which a core each computes from its own weights. They meet once a step, to put
  the state, or its gradient, together.
- Within the loop units come first and rows last, (H, B). Then gates are parted without copying, and a step multiplies a
  large matrix by a narrow one, which costs less than the narrow by the large one.
- The input's product is part of the state's: [R | K]ᵀ · [h; x].
- What the way back multiplies by is computed on the way forth, while it is in the cache. A step of the way back is one
  product and a few sums, written where their factors stood, and weights' gradients are products over all steps.
- Products may be computed in bfloat16, with sums and everything else in float32.

Shapes: T steps, B rows, D inputs, H units, G gates, n of H units on a core.
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
    """Run one layer over a window.

    Args:
        cell: "simple_rnn", "lstm" or "gru".
        inputs: float32 (T, B, D).
        state: [h] or, for LSTM, [h, c]; float32 (B, H) each.
        weights: Keras's kernel (D, G·H), recurrent kernel (H, G·H), bias (G·H,) or, for GRU, (2, G·H).
        mask: float32 (B, H): what of h each gate is given, for recurrent dropout; the same in every step (Gal and
            Ghahramani, https://arxiv.org/abs/1512.05287). What the state keeps is not touched.
        precision: float32 or bfloat16, for the factors of matrix products; their sums are float32 in either.
        parts: Of the units, which do not depend on each other within a step, so that each takes a core.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state:
        windows are truncated there.
    """
    outputs, *new_state = _layer(_CELLS[cell](precision), mask, parts)(inputs, *state, *weights)
    return outputs, [tf.stop_gradient(vectors) for vectors in new_state]


def product(a: tf.Tensor, b: tf.Tensor, precision: tf.DType, **transposed: bool) -> tf.Tensor:
    """Multiply two matrices of factors in a precision; the result is float32."""
    return tf.cast(tf.matmul(tf.cast(a, precision), tf.cast(b, precision), **transposed), tf.float32)


def split(x: tf.Tensor, parts: int, axis: int = 0) -> Arrays:
    """Cut what may have any length into parts that differ by one at most."""
    if parts == 1:
        return [x]
    bounds = tf.shape(x)[axis] * tf.range(parts + 1) // parts
    # Slices would each have a gradient as large as the whole.
    return tf.split(x, bounds[1:] - bounds[:-1], axis, num=parts)


def _slices(units: int, parts: int) -> list[slice]:
    bounds = [units * i // parts for i in range(parts + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _of_sigmoid(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙y⊙(1 - y), the gradient by x of what y = σ(x) is multiplied by."""
    return tf.raw_ops.SigmoidGrad(y=y, dy=factor)


def _of_tanh(y: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return factor⊙(1 - y²), the same for y = tanh(x)."""
    return tf.raw_ops.TanhGrad(y=y, dy=factor)


class _Cell:
    """One kind of cell: a step forth and a step back for some of its units. Everything in it is (n, B)."""

    num_states = 1
    num_gates = 1
    # What a step forth saves for the step back.
    num_factors = 1
    # How many gradients `back` returns, and which of them belong to x·K, and which to h·R.
    num_gradients = 1
    of_kernel: tuple[int, ...] = (0,)
    of_recurrent_kernel: tuple[int, ...] = (0,)

    def __init__(self, precision: tf.DType) -> None:
        self.precision = precision

    def times(self, matrix: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Multiply a matrix by columns, both in the precision already."""
        return tf.cast(tf.matmul(matrix, columns), tf.float32)

    def turned(self, matrices: Sequence[tf.Tensor], own: Sequence[slice]) -> Arrays:
        """Return for each part of the units its columns of [(K, G·H) …], turned: (G·n, all K) in the precision."""

        def of(matrix: tf.Tensor, part: slice) -> tf.Tensor:
            by_gate = tf.reshape(matrix, [matrix.shape[0], self.num_gates, -1])[:, :, part]
            return tf.transpose(tf.cast(tf.reshape(by_gate, [matrix.shape[0], -1]), self.precision))

        return [tf.concat([of(matrix, part) for matrix in matrices], 1) for part in own]

    def columns(self, bias: tf.Tensor, own: Sequence[slice]) -> list[Arrays]:
        """Return for each part of the units its values of (G·H,), as (n, 1) for each gate."""
        by_gate = tf.reshape(bias, [self.num_gates, -1, 1])
        return [tf.unstack(by_gate[:, part]) for part in own]

    def gates(self, matrix: tf.Tensor, columns: tf.Tensor, biases: Arrays) -> Arrays:
        """Return the product (G·n, K) · (K, B) plus biases, by gate: (n, B) each."""
        parts = tf.split(tf.matmul(matrix, columns), self.num_gates)
        return [tf.cast(part, tf.float32) + bias for part, bias in zip(parts, biases, strict=True)]

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, own: Sequence[slice]
    ) -> list[Arrays]:
        """Lay the weights out for each part as `forth` wants them."""
        both = self.turned([recurrent_kernel, kernel], own)
        return [list(pair) for pair in zip(both, self.columns(bias, own), strict=True)]

    def gather(self, h: Arrays, x: tf.Tensor) -> Any:
        """Put together what every part's `forth` needs: of the parts' h, and of x (D, B)."""
        return tf.concat([*h, x], axis=0)

    @abstractmethod
    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        """Return the new state and the factors that `back` needs, for what `gather` returned."""

    @abstractmethod
    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        """Return the gradients of what goes into the gates, and the state's but for what comes through h·R."""


class _SimpleRNN(_Cell):
    """h' = tanh(z), z = x·K + h·R + b."""

    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:  # noqa: ARG002 - see `_Cell`
        both, biases = weights
        h = tf.tanh(self.gates(both, seen, biases)[0])
        return [h], [1.0 - tf.square(h)]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        return [d_state[0] * factors[0]], [None]


class _LSTM(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); i, f, o = σ(z), g = tanh(z), z = x·K + h·R + b."""

    num_states = 2
    num_gates = 4
    num_factors = 6
    num_gradients = 4
    of_kernel = of_recurrent_kernel = (0, 1, 2, 3)

    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        both, biases = weights
        i, f, g, o = self.gates(both, seen, biases)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        c = f * state[1] + i * g
        squashed = tf.tanh(c)
        of_c = [_of_sigmoid(i, g), _of_sigmoid(f, state[1]), _of_tanh(g, i)]
        return [o * squashed, c], [_of_tanh(squashed, o), *of_c, _of_sigmoid(o, squashed), f]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h, d_c), (of_h, of_i, of_f, of_g, of_o, f) = d_state, factors
        d_c = d_c + d_h * of_h
        return [d_c * of_i, d_c * of_f, d_c * of_g, d_h * of_o], [None, d_c * f]


class _GRU(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    num_gates = 3
    num_factors = 5
    # The reset gate stands between the candidate's gradient by x·K and by h·R.
    num_gradients = 4
    of_kernel = (0, 1, 2)
    of_recurrent_kernel = (0, 1, 3)

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, own: Sequence[slice]
    ) -> list[Arrays]:
        weights = [self.turned([kernel], own), self.turned([recurrent_kernel], own)]
        biases = [self.columns(bias[0], own), self.columns(bias[1], own)]
        return [list(part) for part in zip(*weights, *biases, strict=True)]

    def gather(self, h: Arrays, x: tf.Tensor) -> Any:
        return tf.concat(h, axis=0), x

    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        (all_h, x), (h,), (kernel, recurrent_kernel, biases, recurrent_biases) = seen, state, weights
        xz, xr, xh = self.gates(kernel, x, biases)
        hz, hr, hh = self.gates(recurrent_kernel, all_h, recurrent_biases)
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        candidate = tf.tanh(xh + r * hh)
        difference, of_candidate = h - candidate, _of_tanh(candidate, 1.0 - z)
        of_gates = [_of_sigmoid(z, difference), _of_sigmoid(r, of_candidate * hh)]
        return [candidate + z * difference], [*of_gates, of_candidate, r, z]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h,), (of_z, of_r, of_candidate, r, z) = d_state, factors
        candidate = d_h * of_candidate
        return [d_h * of_z, d_h * of_r, candidate, candidate * r], [d_h * z]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNN, "lstm": _LSTM, "gru": _GRU}


def _layer(cell: _Cell, mask: tf.Tensor | None, parts: int) -> Callable[..., Any]:
    """Return a layer's function, with its gradient, for inputs (T, B, D), states (B, H) and Keras's weights."""
    precision = cell.precision

    @tf.custom_gradient
    def run(inputs, *rest):  # noqa: ANN001, ANN002, ANN202 - traced by TensorFlow
        state, weights = rest[: cell.num_states], rest[cell.num_states :]
        num_steps, own = tf.shape(inputs)[0], _slices(state[0].shape[1], parts)
        x = tf.cast(turned(inputs), precision)
        xs, spec_x = to_list(x), tf.TensorSpec(x.shape[1:], precision)
        prepared = cell.prepare(*weights, own)
        first = [[tf.transpose(vectors[:, some]) for vectors in state] for some in own]
        masks = [None if mask is None else tf.transpose(mask[:, some]) for some in own]

        def forth(t: tf.Tensor, states: list[Arrays]) -> Any:
            given = [tf.cast(_dropped(h, keep), precision) for (h, *_), keep in zip(states, masks, strict=True)]
            seen = cell.gather(given, item(xs, t, spec_x))
            steps = [cell.forth(seen, *each) for each in zip(states, prepared, strict=True)]
            return [new for new, _ in steps], [[new[0], *factors] for new, factors in steps]

        specs = [tf.TensorSpec([vectors[0].shape[0], None]) for vectors in first]
        last, saved = loop((0, num_steps, 1), forth, first, [[spec] * (1 + cell.num_factors) for spec in specs])
        own_outputs = [turned(stacked(lists[0], spec)) for lists, spec in zip(saved, specs, strict=True)]

        def gradient(d_outputs, *_):  # noqa: ANN001, ANN002, ANN202 - no gradient flows into the last state
            recurrent_kernels = [tf.cast(weights[1][some], precision) for some in own]

            def back(_t: tf.Tensor, states: tuple[list[Arrays], list[Arrays]]) -> Any:
                gates, direct, left = [], [], []
                for (d_h, *d_others), lists in zip(*states, strict=True):
                    shorter, (d_output, *factors) = zip(*[pop(items, d_h) for items in lists], strict=True)
                    into_gates, into_state = cell.back([d_h + d_output, *d_others], factors)
                    gates.append([tf.cast(each, precision) for each in into_gates])
                    direct.append(into_state)
                    left.append(list(shorter))
                into_recurrent = tf.concat([each[k] for k in cell.of_recurrent_kernel for each in gates], axis=0)
                d_states = []
                for kernel, keep, (d_h, *d_others) in zip(recurrent_kernels, masks, direct, strict=True):
                    through_gates = _dropped(cell.times(kernel, into_recurrent), keep)
                    d_states.append([through_gates if d_h is None else d_h + through_gates, *d_others])
                return (d_states, left), gates

            zeros = tf.nest.map_structure(tf.zeros_like, first)
            read = [
                [to_list(turned(d_outputs[:, :, some])), *lists[1:]] for some, lists in zip(own, saved, strict=True)
            ]
            specs_gates = [[tf.TensorSpec(spec.shape, precision)] * cell.num_gradients for spec in specs]
            (d_first, _), d_gates = loop((num_steps - 1, num_steps, -1), back, (zeros, read), specs_gates)
            gates = [
                [_flat(turned(stacked(items, spec))) for items, spec in zip(*part, strict=True)]
                for part in zip(d_gates, specs_gates, strict=True)
            ]
            # What each step started from.
            seen = [tf.concat([state[0][None, :, some], h[:-1]], 0) for some, h in zip(own, own_outputs, strict=True)]
            seen = [_dropped(h, None if mask is None else mask[:, some]) for some, h in zip(own, seen, strict=True)]
            d_state = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*d_first, strict=True)]
            d_inputs, *d_weights = _products(cell, inputs, seen, gates, weights)
            return d_inputs, *d_state, *d_weights

        last = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*last, strict=True)]
        return (tf.concat(own_outputs, axis=-1), *last), gradient

    return run


def _products(
    cell: _Cell, inputs: tf.Tensor, seen: Arrays, gates: list[Arrays], weights: Sequence[tf.Tensor]
) -> Arrays:
    """Return the gradients of inputs, kernel, recurrent kernel and bias, over all steps at once.

    Args:
        cell: The kind of cell.
        inputs: (T, B, D).
        seen: (T, B, n) for each part: what the gates were given of h.
        gates: (T·B, n) each, for each part what `back` returned.
        weights: Kernel, recurrent kernel and bias.
    """
    (kernel, _, bias), precision, parts = weights, cell.precision, len(seen)
    of_kernel, of_recurrent_kernel = (
        [part[k] for k in some for part in gates] for some in (cell.of_kernel, cell.of_recurrent_kernel)
    )
    flat = _flat(inputs)
    columns = [flat[:, some] for some in _slices(flat.shape[1], parts)]
    sums = [_sums(some, precision) for some in (of_kernel, of_recurrent_kernel)]
    return [
        tf.reshape(_by_kernel(of_kernel, kernel, precision, parts), tf.shape(inputs)),
        _by_columns(columns, of_kernel, precision),
        _by_columns([_flat(h) for h in seen], of_recurrent_kernel, precision),
        tf.stack(sums) if len(bias.shape) > 1 else sums[0],
    ]


def _dropped(h: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    return h if mask is None else h * mask


def _by_columns(columns: Arrays, blocks: Arrays, precision: tf.DType) -> tf.Tensor:
    """Return [columns …]ᵀ · [blocks …], (K, G·H) of (T·B, some K) and (T·B, some G·H): a product for each pair."""
    rows = [tf.concat([product(some, block, precision, transpose_a=True) for block in blocks], 1) for some in columns]
    return tf.concat(rows, axis=0)


def _sums(blocks: Arrays, precision: tf.DType) -> tf.Tensor:
    """Return the sums of columns, (G·H,). A product by ones needs a tenth of the time of TensorFlow's sum."""
    ones = tf.ones([1, tf.shape(blocks[0])[0]], precision)
    return tf.concat([product(ones, block, precision)[0] for block in blocks], axis=0)


def _by_kernel(blocks: Arrays, kernel: tf.Tensor, precision: tf.DType, parts: int) -> tf.Tensor:
    """Return [blocks …] · Kᵀ, (T·B, D), in parts of rows."""
    matrices = tf.split(tf.cast(kernel, precision), [block.shape[1] for block in blocks], axis=1)
    rows = []
    for some in zip(*[split(block, parts) for block in blocks], strict=True):
        pairs = zip(some, matrices, strict=True)
        rows.append(tf.add_n([product(block, matrix, precision, transpose_b=True) for block, matrix in pairs]))
    return tf.concat(rows, axis=0)
