"""The loop over time that every signature runs: tokens one after another, and rows that stop before others.

Knows counts, variables and what is written in each turn. Does not know what a step computes.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Loop = list[Any]


def repeat(count: tf.Tensor, body: Callable[[tf.Tensor, Loop], Loop], variables: Loop, unroll: int) -> Loop:
    """Run `body(i, variables)` for i = 0 … count - 1, `unroll` steps in each iteration and the rest one by one."""

    def turn(steps: int) -> Callable[..., tuple[tf.Tensor, Loop]]:
        def run(i: tf.Tensor, variables: Loop) -> tuple[tf.Tensor, Loop]:
            for _ in range(steps):
                variables = body(i, variables)
                i += 1
            return i, variables

        return run

    i = tf.constant(0)
    if unroll > 1:
        i, variables = tf.while_loop(lambda i, _: i + unroll <= count, turn(unroll), (i, variables))
    return tf.while_loop(lambda i, _: i < count, turn(1), (i, variables))[1]


def specialize(whole: tf.Tensor, run: Callable[..., Any], unroll: int) -> Any:
    """Return `run(masked=False)` where no sequence ends before the others, else `run(masked=True)`.

    Masks cost a tenth of a cell's step (measured: `docs/log.md`). They cost nothing beside a step that is not unrolled,
    while TensorFlow takes half a second for each further copy of it when a version is loaded: then there is one graph.
    """
    if unroll == 1:
        return run(masked=True)
    return tf.cond(whole, lambda: run(masked=False), lambda: run(masked=True))


def read(
    token_ids: tf.Tensor,
    lengths: tf.Tensor,
    step: Callable[[tf.Tensor, Loop], Loop],
    variables: Loop,
    unroll: int,
) -> Loop:
    """Run `step(tokens, variables)` over the tokens int32 (batch, T), one (batch,) after another.

    The variables are vectors, (batch, width) each; after its length a sequence's stay as they are.
    """
    by_time = tf.transpose(token_ids)
    num_steps = tf.shape(token_ids)[1]

    def run(*, masked: bool) -> Loop:
        def body(t: tf.Tensor, variables: Loop) -> Loop:
            new = step(by_time[t], variables)
            return keep(t < lengths, new, variables) if masked else new

        return repeat(num_steps, body, variables, unroll)

    # Most slices of a long prompt are full.
    return specialize(tf.reduce_all(lengths >= num_steps), run, unroll)


def keep(active: tf.Tensor, new_parts: list[tf.Tensor], old_parts: list[tf.Tensor]) -> list[tf.Tensor]:
    """Take the new vectors (batch, units) of the rows that are active and leave the others' untouched, to the bit."""
    chosen = active[:, None]
    return [tf.where(chosen, new, old) for new, old in zip(new_parts, old_parts, strict=True)]


def blank(active: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Put 0 into the rows of (batch, …) that are not active."""
    chosen = tf.reshape(active, [-1] + [1] * (value.shape.rank - 1))
    return tf.where(chosen, value, tf.zeros([], value.dtype))


def array(kind: tf.DType, num_steps: tf.Tensor, *shape: int) -> tf.TensorArray:
    """Make what takes a value (batch, …) in each step."""
    return tf.TensorArray(kind, num_steps, element_shape=[None, *shape])


def write(arrays: list[tf.TensorArray], t: tf.Tensor, values: list[tf.Tensor]) -> list[tf.TensorArray]:
    """Write the values of step t."""
    return [array.write(t, value) for array, value in zip(arrays, values, strict=True)]


def by_row(arrays: list[tf.TensorArray]) -> list[tf.Tensor]:
    """Return what was written as (batch, T, …)."""
    stacked = [array.stack() for array in arrays]
    return [tf.transpose(value, [1, 0, *range(2, value.shape.rank)]) for value in stacked]
