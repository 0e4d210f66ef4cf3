"""TensorFlow Serving's batching rules, enforced on each call; calls are never merged.

Knows batch sizes: those of inputs and outputs, and padding to an allowed batch size. Error messages are TensorFlow
Serving's. Does not know signatures or requests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from model_server import textproto
from model_server.errors import ConfigError, InvalidRequest, TensorFlowFailed

Arrays = dict[str, np.ndarray]
# Omitted parameters have TensorFlow Serving's defaults; these minimums are TensorFlow Serving's too.
_MINIMUMS = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}

_WRONG_BATCH_SIZE = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
)


@dataclass(frozen=True)
class Batching:
    """Batching parameters.

    Attributes:
        max_batch_size: Largest batch size of a call.
        allowed_batch_sizes: Ascending; a call is padded to the next of these. Empty: any size is allowed.
    """

    max_batch_size: int = 1000
    allowed_batch_sizes: tuple[int, ...] = ()

    def wrap(self, function: Callable[..., Arrays]) -> Callable[..., Arrays]:
        """Wrap a function from arrays to arrays, by name, so that it enforces the batching rules.

        An empty batch is not padded, because padding copies its first entry.

        Raises:
            InvalidRequest: (the returned function) inputs without a batch dimension, with unequal batch sizes, or with
                a batch size above the maximum.
            TensorFlowFailed: (the returned function) FAILED_PRECONDITION: an output does not have the batch size.
        """

        def wrapped(**inputs: np.ndarray) -> Arrays:
            batch_size = self._batch_size(inputs)
            padded_size = 0
            if batch_size:
                padded_size = next((size for size in self.allowed_batch_sizes if size >= batch_size), batch_size)
            outputs = function(**{name: _pad(array, padded_size) for name, array in inputs.items()})
            for array in outputs.values():
                _check_output(array, padded_size)
            if padded_size == batch_size:
                return outputs
            return {name: array[:batch_size] for name, array in outputs.items()}

        return wrapped

    def _batch_size(self, inputs: Arrays) -> int:
        if not inputs:
            raise InvalidRequest("Batching Run() must have at least one input tensor")
        if any(array.ndim == 0 for array in inputs.values()):
            raise InvalidRequest("Batching Run() input tensors must have at least one dimension")
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) > 1:
            raise InvalidRequest("Batching Run() input tensors must have equal 0th-dimension size")
        batch_size = sizes.pop()
        if batch_size > self.max_batch_size:
            raise InvalidRequest(
                f"Task size {batch_size} is larger than maximum input batch size {self.max_batch_size}"
            )
        return batch_size


def read_batching(path: Path | None) -> Batching:
    """Read a file of batching parameters; None means TensorFlow Serving's defaults.

    Raises:
        ConfigError: the file cannot be read or is invalid; the message is one line and names the file.
    """
    if path is None:
        return Batching()
    return textproto.read(path, textproto.BatchingParameters, "batching parameters", _from_proto)


def _from_proto(message: Any) -> Batching:
    for field, minimum in _MINIMUMS.items():
        if message.HasField(field) and getattr(message, field).value < minimum:
            raise ConfigError(f"{field} must be at least {minimum}, got {getattr(message, field).value}")
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


def _pad(array: np.ndarray, padded_size: int) -> np.ndarray:
    """Pad with copies of the first entry, which is a valid input of the graph."""
    num_padding = padded_size - len(array)
    return np.concatenate([array, np.repeat(array[:1], num_padding, axis=0)]) if num_padding else array


def _check_output(array: np.ndarray, padded_size: int) -> None:
    if array.ndim == 0:
        message = "Batched output tensor has 0 dimensions"
    elif len(array) != padded_size:
        message = _WRONG_BATCH_SIZE
    else:
        return
    raise TensorFlowFailed(grpc.StatusCode.FAILED_PRECONDITION, message)
