"""Whole sequences through a recurrent layer on a CPU, with gradients of their own, for training.

Same functions as Keras's SimpleRNN, LSTM and GRU layers, same weights, same gradients (tests compare them), less work.
The state comes in and goes out, which is what carried state needs. What makes it fast (measured: `docs/log.md`):

- The work is shared out over the cores, by rows or by units. Parts of rows never meet, but each reads all weights in
  every step. Parts of units read their own, and meet once a step to put the state, or its gradient, together.
- Within the loop units come first and rows last, (H, B). Then gates are parted without copying, and a step multiplies a
  large matrix by a narrow one, which costs less than the narrow by the large one.
- The input's product is part of the state's: [R | K]ᵀ · [h; x].
- What the way back multiplies by is computed on the way forth, while it is in the cache. A step of the way back is one
  product and a few sums, and each weight's gradient is one product over all steps.
- Products may be computed in bfloat16, with sums and everything else in float32.

Shapes: T steps, B rows, D inputs, H units, G gates, n of H units on a core.
"""

import itertools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

Arrays = list[tf.Tensor]


@dataclass(frozen=True)
class Cut:
    """Into how many parts a layer is cut, by rows or by units.

    Attributes:
        rows: Parts of the rows.
        units: Parts of the units.
    """

    rows: int = 1
    units: int = 1

    @property
    def parts(self) -> int:
        """All parts."""
        return self.rows * self.units


def run_layer(
    cell: str,
    inputs: tf.Tensor,
    state: Sequence[tf.Tensor],
    weights: Sequence[tf.Tensor],
    mask: tf.Tensor | None = None,
    precision: tf.DType = tf.float32,
    cut: Cut = Cut(),
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
        cut: Into parts that do not depend on each other, within a step at least, so that each takes a core.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state:
        windows are truncated there.
    """
    parts = [split(inputs, cut.rows, axis=1), *[split(vectors, cut.rows) for vectors in state]]
    masks = [None] * cut.rows if mask is None else split(mask, cut.rows)
    results = []
    for some, keep in zip(zip(*parts, strict=True), masks, strict=True):
        results.append(_layer(_CELLS[cell](precision), keep, cut.units)(*some, *weights))
    outputs, *new_state = zip(*results, strict=True)
    return _joined(outputs, 1), [tf.stop_gradient(_joined(vectors, 0)) for vectors in new_state]


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


class _Cell:
    """One kind of cell: a step forth and a step back for some of its units. Everything in it is (n, B)."""

    num_states = 1
    num_gates = 1
    # What a step forth saves for the step back.
    num_factors = 1
    # Which of the gradients that a step back returns stand in one block, that is (T·B, some H) for all steps.
    blocks: tuple[tuple[int, ...], ...] = ((0,),)
    # Which blocks are the gradient of x·K, and which that of h·R.
    of_kernel: tuple[int, ...] = (0,)
    of_recurrent_kernel: tuple[int, ...] = (0,)

    def __init__(self, precision: tf.DType) -> None:
        self.precision = precision

    def times(self, matrix: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
        """Multiply a matrix by columns, both in the precision already."""
        return tf.cast(tf.matmul(matrix, columns), tf.float32)

    def turned(self, matrix: tf.Tensor, own: Sequence[slice]) -> Arrays:
        """Return for each part of the units its columns of (K, G·H), turned: (G·n, K) in the precision."""
        by_gate = tf.reshape(tf.transpose(tf.cast(matrix, self.precision)), [self.num_gates, -1, matrix.shape[0]])
        return [tf.reshape(by_gate[:, part], [-1, matrix.shape[0]]) for part in own]

    def columns(self, bias: tf.Tensor, own: Sequence[slice]) -> Arrays:
        """Return for each part of the units its values of (G·H,), as (G·n, 1)."""
        by_gate = tf.reshape(bias, [self.num_gates, -1])
        return [tf.reshape(by_gate[:, part], [-1, 1]) for part in own]

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, own: Sequence[slice]
    ) -> list[Arrays]:
        """Lay the weights out for each part as `forth` wants them."""
        both = tf.concat([recurrent_kernel, kernel], axis=0)
        return [list(pair) for pair in zip(self.turned(both, own), self.columns(bias, own), strict=True)]

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
        both, bias = weights
        h = tf.tanh(self.times(both, seen) + bias)
        return [h], [1.0 - tf.square(h)]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        return [d_state[0] * factors[0]], [None]


class _LSTM(_Cell):
    """c' = f⊙c + i⊙g, h' = o⊙tanh(c'); i, f, o = σ(z), g = tanh(z), z = x·K + h·R + b."""

    num_states = 2
    num_gates = 4
    num_factors = 6
    blocks = ((0, 1, 2, 3),)

    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        both, bias = weights
        i, f, g, o = tf.split(self.times(both, seen) + bias, 4)
        i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
        kept, added = f * state[1], i * g
        c = kept + added
        squashed = tf.tanh(c)
        h = o * squashed
        of_c = [added * (1.0 - i), kept * (1.0 - f), i - added * g]
        return [h, c], [o - h * squashed, *of_c, h * (1.0 - o), f]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h, d_c), (of_h, of_i, of_f, of_g, of_o, f) = d_state, factors
        d_c = d_c + d_h * of_h
        return [d_c * of_i, d_c * of_f, d_c * of_g, d_h * of_o], [None, d_c * f]


class _GRU(_Cell):
    """h' = z⊙h + (1 - z)⊙tanh(x + r⊙(h·R + b)), with z, r = σ(x + h·R + b): Keras's `reset_after=True`."""

    num_gates = 3
    num_factors = 5
    # The reset gate stands between the candidate's gradient by x·K and by h·R.
    blocks = ((0, 1), (2,), (3,))
    of_kernel = (0, 1)
    of_recurrent_kernel = (0, 2)

    def prepare(
        self, kernel: tf.Tensor, recurrent_kernel: tf.Tensor, bias: tf.Tensor, own: Sequence[slice]
    ) -> list[Arrays]:
        weights = [self.turned(kernel, own), self.turned(recurrent_kernel, own)]
        biases = [self.columns(bias[0], own), self.columns(bias[1], own)]
        return [list(part) for part in zip(*weights, *biases, strict=True)]

    def gather(self, h: Arrays, x: tf.Tensor) -> Any:
        return tf.concat(h, axis=0), x

    def forth(self, seen: Any, state: Arrays, weights: Arrays) -> tuple[Arrays, Arrays]:
        (all_h, x), (h,), (kernel, recurrent_kernel, bias, recurrent_bias) = seen, state, weights
        xz, xr, xh = tf.split(self.times(kernel, x) + bias, 3)
        hz, hr, hh = tf.split(self.times(recurrent_kernel, all_h) + recurrent_bias, 3)
        z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
        candidate = tf.tanh(xh + r * hh)
        kept, left = z * (h - candidate), 1.0 - z
        of_candidate = left * (1.0 - tf.square(candidate))
        return [candidate + kept], [kept * left, of_candidate * hh * r * (1.0 - r), of_candidate, r, z]

    def back(self, d_state: Arrays, factors: Arrays) -> tuple[Arrays, list[tf.Tensor | None]]:
        (d_h,), (of_z, of_r, of_candidate, r, z) = d_state, factors
        candidate = d_h * of_candidate
        return [d_h * of_z, d_h * of_r, candidate, candidate * r], [d_h * z]


_CELLS: dict[str, type[_Cell]] = {"simple_rnn": _SimpleRNN, "lstm": _LSTM, "gru": _GRU}


def _loop(times: tuple[Any, Any, int], step: Callable[[tf.Tensor, Any], Any], state: Any, saved: Any) -> Any:
    """Loop over time.

    Args:
        times: The first t, the number of steps and 1 or -1.
        step: `step(t, state)` returns the new state and what to save.
        state: Before the first step; tensors in any structure.
        saved: Types of what is saved, in its structure.

    Returns:
        The state after the last step, and what was saved by t: a TensorArray for each type.
    """
    first, num_steps, direction = times

    def body(i: tf.Tensor, state: Any, arrays: Any) -> Any:
        t = first + direction * i
        state, values = step(t, state)
        return i + 1, state, tf.nest.map_structure(lambda array, value: array.write(t, value), arrays, values)

    arrays = tf.nest.map_structure(lambda kind: tf.TensorArray(kind, num_steps, clear_after_read=False), saved)
    _, state, arrays = tf.while_loop(lambda i, *_: i < num_steps, body, (tf.constant(0), state, arrays))
    return state, arrays


def _layer(cell: _Cell, mask: tf.Tensor | None, parts: int) -> Callable[..., Any]:
    """Return a layer's function, with its gradient, for inputs (T, B, D), states (B, H) and Keras's weights."""
    precision = cell.precision

    @tf.custom_gradient
    def run(inputs, *rest):  # noqa: ANN001, ANN002, ANN202 - traced by TensorFlow
        state, weights = rest[: cell.num_states], rest[cell.num_states :]
        num_steps, own = tf.shape(inputs)[0], _slices(state[0].shape[1], parts)
        by_step = tf.cast(tf.transpose(inputs, [0, 2, 1]), precision)
        prepared = cell.prepare(*weights, own)
        first = [[tf.transpose(vectors[:, some]) for vectors in state] for some in own]
        masks = [None if mask is None else tf.transpose(mask[:, some]) for some in own]

        def forth(t: tf.Tensor, states: list[Arrays]) -> Any:
            given = [tf.cast(_dropped(h, keep), precision) for (h, *_), keep in zip(states, masks, strict=True)]
            seen = cell.gather(given, by_step[t])
            steps = [cell.forth(seen, *each) for each in zip(states, prepared, strict=True)]
            # h is what comes out, and goes out with rows first.
            return [new for new, _ in steps], [(tf.transpose(new[0]), factors) for new, factors in steps]

        kinds = [(tf.float32, [tf.float32] * cell.num_factors)] * parts
        last, saved = _loop((0, num_steps, 1), forth, first, kinds)
        own_outputs, factors = [array.stack() for array, _ in saved], [arrays for _, arrays in saved]

        def gradient(d_outputs, *_):  # noqa: ANN001, ANN002, ANN202 - no gradient flows into the last state
            recurrent_kernels = [tf.cast(weights[1][some], precision) for some in own]

            def back(t: tf.Tensor, d_states: list[Arrays]) -> Any:
                gates, direct = [], []
                for some, (d_h, *d_others), arrays in zip(own, d_states, factors, strict=True):
                    d_own = [d_h + tf.transpose(d_outputs[t][:, some]), *d_others]
                    into_gates, into_state = cell.back(d_own, [array.read(t) for array in arrays])
                    gates.append([tf.cast(each, precision) for each in into_gates])
                    direct.append(into_state)
                blocks = [tf.concat([each[k] for k in block for each in gates], axis=0) for block in cell.blocks]
                into_recurrent = _joined([blocks[k] for k in cell.of_recurrent_kernel], axis=0)
                d_states = []
                for kernel, keep, (d_h, *d_others) in zip(recurrent_kernels, masks, direct, strict=True):
                    through_gates = _dropped(cell.times(kernel, into_recurrent), keep)
                    d_states.append([through_gates if d_h is None else d_h + through_gates, *d_others])
                return d_states, [tf.transpose(block) for block in blocks]

            zeros, kinds = tf.nest.map_structure(tf.zeros_like, first), [precision] * len(cell.blocks)
            d_first, saved = _loop((num_steps - 1, num_steps, -1), back, zeros, kinds)
            blocks = [_flat(array.stack()) for array in saved]
            # What each step started from.
            seen = [tf.concat([state[0][None, :, some], h[:-1]], 0) for some, h in zip(own, own_outputs, strict=True)]
            seen = [_dropped(h, None if mask is None else mask[:, some]) for some, h in zip(own, seen, strict=True)]
            d_state = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*d_first, strict=True)]
            d_inputs, *d_weights = _products(cell, inputs, seen, blocks, weights)
            return d_inputs, *d_state, *d_weights

        last = [tf.transpose(tf.concat(vectors, axis=0)) for vectors in zip(*last, strict=True)]
        return (tf.concat(own_outputs, axis=-1), *last), gradient

    return run


def _products(cell: _Cell, inputs: tf.Tensor, seen: Arrays, blocks: Arrays, weights: Sequence[tf.Tensor]) -> Arrays:
    """Return the gradients of inputs, kernel, recurrent kernel and bias, over all steps at once.

    Args:
        cell: The kind of cell.
        inputs: (T, B, D).
        seen: (T, B, n) for each part: what the gates were given of h.
        blocks: (T·B, some H) each, as `back` returned them.
        weights: Kernel, recurrent kernel and bias.
    """
    (kernel, _, bias), precision, parts = weights, cell.precision, len(seen)
    of_kernel, of_recurrent_kernel = ([blocks[k] for k in some] for some in (cell.of_kernel, cell.of_recurrent_kernel))
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


def _joined(arrays: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
    return tf.concat(arrays, axis) if len(arrays) > 1 else arrays[0]


def _by_columns(columns: Arrays, blocks: Arrays, precision: tf.DType) -> tf.Tensor:
    """Return [columns …]ᵀ · [blocks …], (K, G·H) of (T·B, some K) and (T·B, some G·H): a product for each pair."""
    rows = [_joined([product(some, block, precision, transpose_a=True) for block in blocks], 1) for some in columns]
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
