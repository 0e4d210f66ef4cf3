"""A loop over time, and what its steps read and save: lists of TensorFlow's, an array (n, B) for each step.

They are what `tf.TensorArray` is made of. Used directly, they can be popped, which lets go of an item's memory while it
is in the processor's cache; and they work outside of graphs too.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def to_list(x: tf.Tensor) -> tf.Tensor:
    """Make a list of x (T, n, B). A step reads its item without copying, and for less than a slice costs."""
    return tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=[x.shape[1], -1])


def item(items: tf.Tensor, t: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return an item (n, B) of a list."""
    return tf.raw_ops.TensorListGetItem(
        input_handle=items, index=t, element_shape=_shape(spec), element_dtype=spec.dtype
    )


def pop(items: tf.Tensor, like: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return a list without its last item, and that item, which is (n, B) like another.

    What is computed from it is then written where it stood. Written elsewhere, it would have to fetch memory that has
    long left the cache, which took half as long as the step's product (measured: `docs/log.md`).
    """
    return tf.raw_ops.TensorListPopBack(input_handle=items, element_shape=_shape(like), element_dtype=like.dtype)


def stacked(items: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Return a list's items as (T, n, B)."""
    return tf.raw_ops.TensorListStack(input_handle=items, element_shape=_shape(spec), element_dtype=spec.dtype)


def turned(x: tf.Tensor) -> tf.Tensor:
    """Turn (T, n, B) into (T, B, n), or back. For all steps at once it takes a fifth of the time of one by one."""
    return tf.transpose(x, [0, 2, 1])


def loop(times: tuple[Any, Any, int], step: Callable[[tf.Tensor, Any], Any], state: Any, saved: Any) -> Any:
    """Loop over time.

    Args:
        times: The first t, the number of steps and 1 or -1.
        step: `step(t, state)` returns the new state and what to save.
        state: Before the first step; tensors in any structure.
        saved: What a step saves, in its structure: specs of (n, B).

    Returns:
        The state after the last step, and what was saved: a list in order of t for each spec.
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
    """Return the shape of a step's array: how many rows there are is known when it runs."""
    return [like.shape[0], -1]
