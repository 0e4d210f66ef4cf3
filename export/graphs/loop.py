"""The loop over time steps of every signature, with masks for sequences that end before others.

Knows step counts, loop variables and outputs per step. Does not know what a step computes.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Loop = list[Any]


def repeat(count: tf.Tensor, body: Callable[[tf.Tensor, Loop], Loop], variables: Loop, unroll: int) -> Loop:
    """Run `body(i, variables)` for i = 0 … count - 1, with `unroll` steps per iteration and the rest one by one."""

    def iteration(steps: int) -> Callable[..., tuple[tf.Tensor, Loop]]:
        def run(i: tf.Tensor, variables: Loop) -> tuple[tf.Tensor, Loop]:
            for _ in range(steps):
                variables = body(i, variables)
                i += 1
            return i, variables

        return run

    i = tf.constant(0)
    if unroll > 1:
        i, variables = tf.while_loop(lambda i, _: i + unroll <= count, iteration(unroll), (i, variables))
    return tf.while_loop(lambda i, _: i < count, iteration(1), (i, variables))[1]


def specialize(is_full: tf.Tensor, run: Callable[..., Any], unroll: int) -> Any:
    """Return `run(masked=False)` if no sequence ends before the others, else `run(masked=True)`.

    Masks cost a tenth of a cell's step (measured: `docs/log.md`). Beside a step that is not unrolled their cost is
    negligible, while each further copy of it in the graph adds half a second to loading: then only one is built.
    """
    if unroll == 1:
        return run(masked=True)
    return tf.cond(is_full, lambda: run(masked=False), lambda: run(masked=True))


def scan(
    token_ids: tf.Tensor,
    lengths: tf.Tensor,
    step: Callable[[tf.Tensor, Loop], Loop],
    variables: Loop,
    unroll: int,
) -> Loop:
    """Run `step(tokens, variables)` over the tokens int32 (batch, T), one time step (batch,) after another.

    The variables are vectors, (batch, width) each; those of a sequence do not change after its length.
    """
    by_time = tf.transpose(token_ids)
    num_steps = tf.shape(token_ids)[1]

    def run(*, masked: bool) -> Loop:
        def body(t: tf.Tensor, variables: Loop) -> Loop:
            new = step(by_time[t], variables)
            return select_active(t < lengths, new, variables) if masked else new

        return repeat(num_steps, body, variables, unroll)

    # Most prefill chunks of a long prompt are full.
    return specialize(tf.reduce_all(lengths >= num_steps), run, unroll)


def select_active(active: tf.Tensor, new_parts: list[tf.Tensor], old_parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the new vectors (batch, units) of active sequences, and the old ones of the others, bit-exact."""
    mask = active[:, None]
    return [tf.where(mask, new, old) for new, old in zip(new_parts, old_parts, strict=True)]


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
