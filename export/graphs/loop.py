"""The loop over time steps of every signature, with masks for sequences that end before others."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Loop = list[Any]
# One step, `body(t, variables, masked)`: only a masked one must keep the variables of sequences that have ended.
Body = Callable[[tf.Tensor, Loop, bool], Loop]


def repeat(num_steps: tf.Tensor, body: Body, variables: Loop, num_full: tf.Tensor | None, unroll: int) -> Loop:
    """Run `body` for t = 0 … num_steps - 1, with `unroll` steps per iteration as long as possible.

    Masks cost a tenth of a cell's step, and another iteration as much as 4 µs (see `benchmarks/HISTORY.md`). So steps
    are unmasked while no sequence can have ended.

    Args:
        num_steps: T.
        body: One step.
        variables: Its loop variables.
        num_full: Number of steps before the first sequence ends; None if an end token may end any of them.
        unroll: 1 for a step so large that a copy of it takes longer to load than an iteration costs.
    """

    def iteration(steps: int, *, masked: bool) -> Callable[..., tuple[tf.Tensor, Loop]]:
        def run(t: tf.Tensor, variables: Loop) -> tuple[tf.Tensor, Loop]:
            for _ in range(steps):
                variables = body(t, variables, masked)
                t += 1
            return t, variables

        return run

    t = tf.constant(0)
    if unroll > 1:
        limit = num_steps if num_full is None else tf.minimum(num_steps, num_full)
        several = iteration(unroll, masked=num_full is None)
        t, variables = tf.while_loop(lambda t, _: t + unroll <= limit, several, (t, variables))
    return tf.while_loop(lambda t, _: t < num_steps, iteration(1, masked=True), (t, variables))[1]


def zero_inactive(active: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Set (batch, …) to 0 for inactive sequences."""
    mask = tf.reshape(active, [-1] + [1] * (value.shape.rank - 1))
    return tf.where(mask, value, tf.zeros([], value.dtype))


def array(kind: tf.DType, num_steps: tf.Tensor, *shape: int) -> tf.TensorArray:
    """Create a `TensorArray` with one value (batch, …) per step."""
    return tf.TensorArray(kind, num_steps, element_shape=[None, *shape])


def write(arrays: list[tf.TensorArray], t: tf.Tensor, values: list[tf.Tensor]) -> list[tf.TensorArray]:
    """Write the values of step t."""
    return [array.write(t, value) for array, value in zip(arrays, values, strict=True)]


def stack_batch_major(arrays: list[tf.TensorArray]) -> list[tf.Tensor]:
    """Stack the written values to (batch, T, …)."""
    stacked = [array.stack() for array in arrays]
    return [tf.transpose(value, [1, 0, *range(2, value.shape.rank)]) for value in stacked]
