"""A loop over time steps whose inputs and saved values are TensorFlow tensor lists: one array (n, B) per step.

`tf.TensorArray` is built on tensor lists. Used directly, they support pop, which frees an item's memory while it is in
the CPU cache, and they also work in eager mode.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def to_list(x: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return x (T, n, B) as a list. A step reads its item without copying, which is cheaper than a slice."""
    return tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=_shape(spec))


def item(items: tf.Tensor, t: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return an item (n, B) of a list."""
    return tf.raw_ops.TensorListGetItem(
        input_handle=items, index=t, element_shape=_shape(spec), element_dtype=spec.dtype
    )


def pop(items: tf.Tensor, like: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a list without its last item, and that item, (n, B) with the shape of `like`.

    Results computed from the item reuse its memory. Written elsewhere, they would touch memory that has left the cache,
    which took half as long as the step's product (measured: `benchmarks/HISTORY.md`).
    """
    return tf.raw_ops.TensorListPopBack(input_handle=items, element_shape=_shape(like), element_dtype=like.dtype)


def stacked(items: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return a list's items as (T, n, B)."""
    return tf.raw_ops.TensorListStack(input_handle=items, element_shape=_shape(spec), element_dtype=spec.dtype)


def transposed_steps(x: tf.Tensor) -> tf.Tensor:
    """Transpose (T, n, B) to (T, B, n), or back. All steps at once take a fifth of the time of step by step."""
    return tf.transpose(x, [0, 2, 1])


def loop(times: tuple[Any, Any, int], step: Callable[[tf.Tensor, Any], Any], state: Any, saved: Any) -> Any:
    """Run a loop over time steps.

    Args:
        times: The first t, the number of steps, and the direction, 1 or -1.
        step: `step(t, state)` returns the new state and the values to save.
        state: Initial state; tensors in any structure.
        saved: Specs (n, B) of the saved values, in the same structure.

    Returns:
        The state after the last step, and the saved values: for each spec a list in order of t.
    """
    first, num_steps, direction = times

    def reserved(spec: tf.TensorSpec) -> tf.Tensor:
        return tf.raw_ops.TensorListReserve(
            element_shape=_shape(spec), num_elements=num_steps, element_dtype=spec.dtype
        )

    def body(i: tf.Tensor, state: Any, lists: Any) -> Any:
        t = first + direction * i
        state, values = step(t, state)

        def put(items: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
            return tf.raw_ops.TensorListSetItem(input_handle=items, index=t, item=value)

        return i + 1, state, tf.nest.map_structure(put, lists, values)

    lists = tf.nest.map_structure(reserved, saved)
    _, state, lists = tf.while_loop(lambda i, *_: i < num_steps, body, (tf.constant(0), state, lists))
    return state, lists


def _shape(like: tf.Tensor | tf.TensorSpec) -> list[int]:
    """Return the shape of a step's array; -1 for a batch size that is known only at run time."""
    return [-1 if size is None else size for size in like.shape]
