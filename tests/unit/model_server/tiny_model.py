"""A small SavedModel whose signatures cover what a server can get wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

ECHOED = (
    tf.float32,
    tf.float64,
    tf.float16,
    tf.bfloat16,
    tf.int64,
    tf.int32,
    tf.int16,
    tf.int8,
    tf.uint8,
    tf.uint16,
    tf.uint32,
    tf.uint64,
    tf.bool,
    tf.complex64,
    tf.string,
)


class TinyModel(tf.Module):
    """A model of one weight, with one signature for each thing that a server can get wrong."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = tf.Variable(weight)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def scale(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scale x float32 (batch, 3): y = x · weight, and its sum per row."""
        return {"y": x * self.weight, "total": tf.reduce_sum(x * self.weight, axis=1)}

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32, name="token_id"),
            tf.TensorSpec([None, 4], tf.float32, name="state"),
        ]
    )
    def step(self, token_id: tf.Tensor, state: tf.Tensor) -> dict[str, tf.Tensor]:
        """Advance token_id int32 (batch) and state float32 (batch, 4)."""
        return {"token_id": token_id + 1, "state": state + self.weight}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="x")])
    def square(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reshape x int32 (4) to y int32 (2, 2); fails in the graph for any other size."""
        return {"y": tf.reshape(x, [2, 2])}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def read(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the contents of the file at path string (); fails in the graph if it is missing."""
        return {"content": tf.io.read_file(path)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def gate(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the weight () once a file exists at path string (); "<path>.reached" is written first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            found = tf.while_loop(
                lambda found: tf.equal(found, 0), lambda _: tf.size(tf.io.matching_files(path)), [tf.constant(0)]
            )
        with tf.control_dependencies(found):
            return {"weight": self.weight.read_value()}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="path")])
    def take(self, path: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return a value () once `give` enqueues one, without blocking a thread; "<path>.reached" is written first."""
        with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
            (value,) = tf.raw_ops.QueueDequeueV2(handle=_queue(), component_types=[tf.float32])
        return {"value": value}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="values")])
    def give(self, values: tf.Tensor) -> dict[str, tf.Tensor]:
        """Enqueue values float32 (n) for `take`."""
        with tf.control_dependencies([tf.raw_ops.QueueEnqueueManyV2(handle=_queue(), components=[values])]):
            return {"num": tf.size(values)}

    def signatures(self, *, echoes: bool) -> dict[str, Any]:
        """Return all signatures; with echoes also `echo_<dtype>`, which returns its input x of any shape."""
        signatures = {name: getattr(self, name) for name in ("step", "square", "read", "gate", "take", "give")}
        for dtype in ECHOED if echoes else ():
            echo = tf.function(lambda x: {"x": tf.identity(x)})
            signatures[f"echo_{dtype.name}"] = echo.get_concrete_function(tf.TensorSpec(None, dtype, name="x"))
        return {"serving_default": self.scale, **signatures}


class Gate:
    """A file that calls of the `gate` signature wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_reached(self) -> bool:
        """Whether a call has reached it."""
        return self.path.with_name(self.path.name + ".reached").exists()

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """The inputs of a call that waits for it."""
        return {"path": np.array(str(self.path))}

    def open(self) -> None:
        """Create the file, so that the calls return."""
        self.path.touch()


def _queue() -> tf.Tensor:
    """Return the handle of a queue that the signatures of one loaded model share."""
    return tf.raw_ops.FIFOQueueV2(component_types=[tf.float32], shapes=[[]], shared_name="given")
