"""The rules of TensorFlow Serving's batching, enforced on each call by itself; calls are never merged.

Knows rows: what a call may send, what a graph must answer, and how a call is filled up to a size that is allowed. The
texts of its errors are TensorFlow Serving's. Does not know signatures or requests.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf

from model_server import textproto
from model_server.errors import ConfigError, InvalidRequest, TensorFlowFailed

Tensors = Mapping[str, tf.Tensor]
NAME = "file of batching parameters"
# What is left out has TensorFlow Serving's default; these have a least value there too.
_AT_LEAST = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}

_OTHER_ROWS = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
)


@dataclass(frozen=True)
class Batching:
    """What a call may be.

    Attributes:
        max_batch_size: Rows of the largest call.
        allowed_batch_sizes: Ascending; a call is filled up to the next of these. Empty: any size is allowed.
    """

    max_batch_size: int = 1000
    allowed_batch_sizes: tuple[int, ...] = ()

    def wrap(self, function: Callable[..., Tensors]) -> Callable[..., Tensors]:
        """Return a function that enforces the rules around one that takes and returns tensors by name.

        Without rows there is none to be copied, so an empty call is not filled up.

        Raises:
            InvalidRequest: (the returned function) inputs without rows, of unequal numbers of rows, or of too many.
            TensorFlowFailed: (the returned function) FAILED_PRECONDITION: an output does not have the call's rows.
        """

        def wrapped(**inputs: tf.Tensor) -> Tensors:
            num_rows = self._num_rows(inputs)
            size = next((size for size in self.allowed_batch_sizes if size >= num_rows), num_rows) if num_rows else 0
            outputs = function(**{name: _fill_up(tensor, size) for name, tensor in inputs.items()})
            for tensor in outputs.values():
                _check_output(tensor, size)
            return {name: tensor[:num_rows] for name, tensor in outputs.items()} if size > num_rows else outputs

        return wrapped

    def _num_rows(self, inputs: Tensors) -> int:
        if not inputs:
            raise InvalidRequest("Batching Run() must have at least one input tensor")
        if any(tensor.shape.rank == 0 for tensor in inputs.values()):
            raise InvalidRequest("Batching Run() input tensors must have at least one dimension")
        sizes = {int(tensor.shape[0]) for tensor in inputs.values()}
        if len(sizes) > 1:
            raise InvalidRequest("Batching Run() input tensors must have equal 0th-dimension size")
        num_rows = sizes.pop()
        if num_rows > self.max_batch_size:
            raise InvalidRequest(f"Task size {num_rows} is larger than maximum input batch size {self.max_batch_size}")
        return num_rows


def read_batching(path: Path | None) -> Batching:
    """Read a file of batching parameters; None stands for TensorFlow Serving's defaults.

    Raises:
        ConfigError: the file cannot be read or used; the message is one line and names it.
    """
    if path is None:
        return Batching()
    message = textproto.read(path, textproto.BatchingParameters, NAME)
    try:
        return _from_proto(message)
    except ConfigError as error:
        raise textproto.unusable(path, NAME, error) from error


def _from_proto(message: Any) -> Batching:
    for field, least in _AT_LEAST.items():
        if message.HasField(field) and getattr(message, field).value < least:
            raise ConfigError(f"{field} must be at least {least}, got {getattr(message, field).value}")
    max_batch_size = message.max_batch_size.value if message.HasField("max_batch_size") else Batching.max_batch_size
    return Batching(max_batch_size, _sizes(message.allowed_batch_sizes, max_batch_size))


def _sizes(sizes: Sequence[int], max_batch_size: int) -> tuple[int, ...]:
    if sizes and sizes[-1] != max_batch_size:
        raise ConfigError(
            "Last entry in allowed_batch_sizes must match max_batch_size; "
            f"last entry was {sizes[-1]}; expected {max_batch_size}"
        )
    if list(sizes) != sorted({size for size in sizes if size > 0}):
        raise ConfigError(f"allowed_batch_sizes must be positive and ascend, got {list(sizes)}")
    return tuple(sizes)


def _fill_up(tensor: tf.Tensor, size: int) -> tf.Tensor:
    """Add copies of the first row, which is known to be one that the graph takes."""
    missing = size - int(tensor.shape[0])
    return tf.concat([tensor, tf.repeat(tensor[:1], missing, axis=0)], axis=0) if missing else tensor


def _check_output(tensor: tf.Tensor, size: int) -> None:
    if tensor.shape.rank == 0:
        message = "Batched output tensor has 0 dimensions"
    elif tensor.shape[0] != size:
        message = _OTHER_ROWS
    else:
        return
    raise TensorFlowFailed(grpc.StatusCode.FAILED_PRECONDITION, message)
