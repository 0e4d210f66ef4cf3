"""Whole sequences through a recurrent layer on a CPU, with gradients of their own, for training.

Same functions as Keras's SimpleRNN, LSTM and GRU layers, same weights, same gradients (tests compare them), less work:
the input projection of all steps is one matmul, the backward loop computes only the gates' gradients, and each weight's
gradient is one matmul over all steps. The state comes in and goes out, which is what carried state needs.

Shapes: T steps, B sequences, D inputs, H units, G gates. Time comes first throughout.
"""

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
) -> tuple[tf.Tensor, Arrays]:
    """Run one layer over a window.

    Args:
        cell: "simple_rnn", "lstm" or "gru".
        inputs: float32 (T, B, D).
        state: [h] or, for LSTM, [h, c]; float32 (B, H) each.
        weights: Keras's kernel (D, G·H), recurrent kernel (H, G·H), bias (G·H,) or, for GRU, (2, G·H).
        mask: float32 (B, H): what of h each gate is given, for recurrent dropout; the same in every step (Gal and
            Ghahramani, https://arxiv.org/abs/1512.05287). What the state keeps is not touched.

    Returns:
        Outputs float32 (T, B, H) and the state after the last step. No gradient flows through the returned state:
        windows are truncated there.
    """
    drop = (lambda h: h) if mask is None else (lambda h: h * mask)
    outputs, *new_state = _LAYERS[cell](drop)(inputs, *state, *weights)
    return outputs, [tf.stop_gradient(part) for part in new_state]


def _scan(
    num_steps: tf.Tensor, step: Callable[[tf.Tensor, Arrays], tuple[Arrays, Arrays]], state: Arrays, num_saved: int
) -> tuple[Arrays, Arrays]:
    """Loop over time; `step(t, state)` returns the new state and what to save, which comes back stacked (T, …)."""
    arrays = [tf.TensorArray(tf.float32, num_steps) for _ in range(num_saved)]

    def body(t: tf.Tensor, state: Arrays, arrays: list[Any]) -> tuple[tf.Tensor, Arrays, list[Any]]:
        state, saved = step(t, state)
        return t + 1, state, [array.write(t, value) for array, value in zip(arrays, saved, strict=True)]

    start = (tf.constant(0), state, arrays)
    _, state, arrays = tf.while_loop(lambda t, *_: t < num_steps, body, start)
    return state, [array.stack() for array in arrays]


def _flat(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _project(inputs: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Multiply all steps by the input kernel at once: (T, B, D) to (T, B, G·H)."""
    shape = tf.concat([tf.shape(inputs)[:2], [kernel.shape[1]]], axis=0)
    return tf.reshape(tf.matmul(_flat(inputs), kernel) + bias, shape)


def _input_gradients(inputs: tf.Tensor, kernel: tf.Tensor, d_gates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the gradients of the inputs (T, B, D) and of the input kernel (D, G·H)."""
    flat = _flat(d_gates)
    d_inputs = tf.reshape(tf.matmul(flat, kernel, transpose_b=True), tf.shape(inputs))
    return d_inputs, tf.matmul(_flat(inputs), flat, transpose_a=True)


# Takes h, or a whole history of it, and returns what the gates are given of it; the same for gradients on the way back.
Drop = Callable[[tf.Tensor], tf.Tensor]


def _recurrent_gradient(h_before: tf.Tensor, d_gates: tf.Tensor) -> tf.Tensor:
    return tf.matmul(_flat(h_before), _flat(d_gates), transpose_a=True)


def _before(first: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Shift a state's history (T, B, H) by one step: what each step started from."""
    return tf.concat([first[None], after[:-1]], axis=0)


def _lstm(drop: Drop) -> Callable[..., Any]:
    @tf.custom_gradient
    def run(inputs, h, c, kernel, recurrent_kernel, bias):  # noqa: ANN001, ANN202 - traced by TensorFlow
        projected = _project(inputs, kernel, bias)
        num_steps = tf.shape(inputs)[0]

        def forward(t: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
            h, c = state
            zi, zf, zg, zo = tf.split(projected[t] + tf.matmul(drop(h), recurrent_kernel), 4, axis=1)
            i, f, g, o = tf.sigmoid(zi), tf.sigmoid(zf), tf.tanh(zg), tf.sigmoid(zo)
            c = f * c + i * g
            squashed = tf.tanh(c)
            h = o * squashed
            return [h, c], [h, c, squashed, i, f, g, o]

        (h_last, c_last), saved = _scan(num_steps, forward, [h, c], 7)
        outputs, c_after, squashed, i, f, g, o = saved

        def gradient(d_outputs, _d_h, _d_c):  # noqa: ANN001, ANN202
            c_before = _before(c, c_after)

            def backward(step: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
                t = num_steps - 1 - step
                dh, dc = state
                dh = dh + d_outputs[t]
                dc = dc + dh * o[t] * (1.0 - tf.square(squashed[t]))
                d_gates = tf.concat(
                    [
                        dc * g[t] * i[t] * (1.0 - i[t]),
                        dc * c_before[t] * f[t] * (1.0 - f[t]),
                        dc * i[t] * (1.0 - tf.square(g[t])),
                        dh * squashed[t] * o[t] * (1.0 - o[t]),
                    ],
                    axis=1,
                )
                return [drop(tf.matmul(d_gates, recurrent_kernel, transpose_b=True)), dc * f[t]], [d_gates]

            (dh, dc), (d_gates,) = _scan(num_steps, backward, [tf.zeros_like(h), tf.zeros_like(c)], 1)
            d_gates = tf.reverse(d_gates, [0])
            d_inputs, d_kernel = _input_gradients(inputs, kernel, d_gates)
            d_recurrent = _recurrent_gradient(drop(_before(h, outputs)), d_gates)
            return d_inputs, dh, dc, d_kernel, d_recurrent, tf.reduce_sum(d_gates, [0, 1])

        return (outputs, h_last, c_last), gradient

    return run


def _gru(drop: Drop) -> Callable[..., Any]:
    @tf.custom_gradient
    def run(inputs, h, kernel, recurrent_kernel, bias):  # noqa: ANN001, ANN202 - traced by TensorFlow
        projected = _project(inputs, kernel, bias[0])
        num_steps = tf.shape(inputs)[0]

        def forward(t: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
            (h,) = state
            xz, xr, xh = tf.split(projected[t], 3, axis=1)
            hz, hr, hh = tf.split(tf.matmul(drop(h), recurrent_kernel) + bias[1], 3, axis=1)
            z, r = tf.sigmoid(xz + hz), tf.sigmoid(xr + hr)
            candidate = tf.tanh(xh + r * hh)
            h = z * h + (1.0 - z) * candidate
            return [h], [h, z, r, candidate, hh]

        (h_last,), (outputs, z, r, candidate, hh) = _scan(num_steps, forward, [h], 5)

        def gradient(d_outputs, _d_h):  # noqa: ANN001, ANN202
            h_before = _before(h, outputs)

            def backward(step: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
                t = num_steps - 1 - step
                dh = state[0] + d_outputs[t]
                d_candidate = dh * (1.0 - z[t]) * (1.0 - tf.square(candidate[t]))
                dz = dh * (h_before[t] - candidate[t]) * z[t] * (1.0 - z[t])
                dr = d_candidate * hh[t] * r[t] * (1.0 - r[t])
                from_state = tf.concat([dz, dr, d_candidate * r[t]], axis=1)
                dh = dh * z[t] + drop(tf.matmul(from_state, recurrent_kernel, transpose_b=True))
                return [dh], [tf.concat([dz, dr, d_candidate], axis=1), from_state]

            (dh,), saved = _scan(num_steps, backward, [tf.zeros_like(h)], 2)
            from_input, from_state = (tf.reverse(array, [0]) for array in saved)
            d_inputs, d_kernel = _input_gradients(inputs, kernel, from_input)
            d_recurrent = _recurrent_gradient(drop(h_before), from_state)
            d_bias = tf.stack([tf.reduce_sum(from_input, [0, 1]), tf.reduce_sum(from_state, [0, 1])])
            return d_inputs, dh, d_kernel, d_recurrent, d_bias

        return (outputs, h_last), gradient

    return run


def _simple_rnn(drop: Drop) -> Callable[..., Any]:
    @tf.custom_gradient
    def run(inputs, h, kernel, recurrent_kernel, bias):  # noqa: ANN001, ANN202 - traced by TensorFlow
        projected = _project(inputs, kernel, bias)
        num_steps = tf.shape(inputs)[0]

        def forward(t: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
            h = tf.tanh(projected[t] + tf.matmul(drop(state[0]), recurrent_kernel))
            return [h], [h]

        (h_last,), (outputs,) = _scan(num_steps, forward, [h], 1)

        def gradient(d_outputs, _d_h):  # noqa: ANN001, ANN202
            def backward(step: tf.Tensor, state: Arrays) -> tuple[Arrays, Arrays]:
                t = num_steps - 1 - step
                d_gates = (state[0] + d_outputs[t]) * (1.0 - tf.square(outputs[t]))
                return [drop(tf.matmul(d_gates, recurrent_kernel, transpose_b=True))], [d_gates]

            (dh,), (d_gates,) = _scan(num_steps, backward, [tf.zeros_like(h)], 1)
            d_gates = tf.reverse(d_gates, [0])
            d_inputs, d_kernel = _input_gradients(inputs, kernel, d_gates)
            d_recurrent = _recurrent_gradient(drop(_before(h, outputs)), d_gates)
            return d_inputs, dh, d_kernel, d_recurrent, tf.reduce_sum(d_gates, [0, 1])

        return (outputs, h_last), gradient

    return run


_LAYERS: dict[str, Callable[[Drop], Callable[..., Any]]] = {"simple_rnn": _simple_rnn, "lstm": _lstm, "gru": _gru}
