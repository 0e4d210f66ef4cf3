"""The loop over time steps of every signature, in which some sequences may end before others."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from export.graphs.precision import Precision, Vectors

LoopVars = list[Any]
LoopBody = Callable[[tf.Tensor, LoopVars], LoopVars]


def repeat(num_steps: tf.Tensor, body: LoopBody, variables: LoopVars, unroll: int) -> LoopVars:
    """Run `body(t, variables)` for t = 0 … num_steps - 1, with `unroll` steps per iteration as long as possible.

    Another iteration costs as much as 4 µs (see `benchmarks/HISTORY.md`).

    Args:
        num_steps: T.
        body: One step.
        variables: Its loop variables.
        unroll: 1 for a large step, whose copy takes longer to load than an iteration costs.
    """

    def iteration(steps: int) -> Callable[..., tuple[tf.Tensor, LoopVars]]:
        def run(t: tf.Tensor, variables: LoopVars) -> tuple[tf.Tensor, LoopVars]:
            for _ in range(steps):
                variables = body(t, variables)
                t += 1
            return t, variables

        return run

    t = tf.constant(0)
    if unroll > 1:
        t, variables = tf.while_loop(lambda t, _: t + unroll <= num_steps, iteration(unroll), (t, variables))
    return tf.while_loop(lambda t, _: t < num_steps, iteration(1), (t, variables))[1]


def keep_ended(precision: Precision, t: tf.Tensor, ends: tf.Tensor, vectors: Vectors, kept: Vectors) -> Vectors:
    """Return `kept`, where sequences whose last step is t get their `vectors`.

    Sequences are computed until the loop ends; the vectors kept at a sequence's own end are its result. At most steps
    no sequence ends, and nothing is selected: masks at every step cost a tenth of it (see `benchmarks/HISTORY.md`).

    Args:
        precision: Layout of the vectors.
        t: int32: the step.
        ends: int32 (batch,): the number of steps of each sequence.
        vectors: The vectors after the step.
        kept: Those that were kept before, or the initial ones of a sequence without steps.
    """
    ended = ends == t + 1
    return tf.cond(tf.reduce_any(ended), lambda: precision.select(ended, vectors, kept), lambda: kept)


def array(kind: tf.DType, num_steps: tf.Tensor, *shape: int) -> tf.TensorArray:
    """Create a `TensorArray` with one value (batch, …) per step."""
    return tf.TensorArray(kind, num_steps, element_shape=[None, *shape])


def write(arrays: list[tf.TensorArray], t: tf.Tensor, values: list[tf.Tensor]) -> list[tf.TensorArray]:
    """Write the values of step t."""
    return [array.write(t, value) for array, value in zip(arrays, values, strict=True)]


def stack_batch_major(arrays: list[tf.TensorArray], ends: tf.Tensor | None = None) -> list[tf.Tensor]:
    """Stack the written values to (batch, T, …); all after the end of a sequence, int32 (batch,), are 0."""
    stacked = [array.stack() for array in arrays]
    values = [tf.transpose(value, [1, 0, *range(2, value.shape.rank)]) for value in stacked]
    return values if ends is None else [_zero_after(ends, value) for value in values]


def _zero_after(ends: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    active = tf.range(tf.shape(values)[1]) < ends[:, None]
    return tf.where(active[(..., *[None] * (values.shape.rank - 2))], values, tf.zeros([], values.dtype))
