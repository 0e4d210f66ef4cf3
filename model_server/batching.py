"""TensorFlow Serving's batching rules and their error messages, enforced on each call; calls are never merged."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from grpc import StatusCode

from model_server.config import BatchingParameters, read_proto
from model_server.errors import ConfigError, InvalidArgument, ModelServerError

Arrays = dict[str, np.ndarray]
# Omitted parameters have TensorFlow Serving's defaults; these minimums are TensorFlow Serving's too.
_MINIMUMS = {"max_batch_size": 1, "batch_timeout_micros": 0, "max_enqueued_batches": 1, "num_batch_threads": 1}


@dataclass(frozen=True)
class Batching:
    """Batching parameters.

    Attributes:
        max_batch_size: Largest batch size of a call.
        allowed_batch_sizes: Ascending; a call is padded to the next of these. Empty: any size is allowed.
    """

    max_batch_size: int = 1000
    allowed_batch_sizes: tuple[int, ...] = ()

    def run(self, function: Callable[[Arrays], Arrays], inputs: Arrays) -> Arrays:
        """Call a function on the padded inputs, and remove the padding from its outputs.

        Raises:
            ModelServerError: INVALID_ARGUMENT or FAILED_PRECONDITION: inputs or outputs are no batch.
        """
        batch_size = self._batch_size(inputs)
        # An empty batch is not padded: it has no first entry.
        padded_size = next((size for size in self.allowed_batch_sizes if size >= batch_size > 0), batch_size)
        outputs = function({name: _pad(array, padded_size) for name, array in inputs.items()})
        for array in outputs.values():
            if array.ndim == 0:
                raise ModelServerError(StatusCode.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(array) != padded_size:
                raise ModelServerError(
                    StatusCode.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        return {name: array[:batch_size] for name, array in outputs.items()}

    def _batch_size(self, inputs: Arrays) -> int:
        if not inputs:
            raise InvalidArgument("Batching Run() must have at least one input tensor")
        if any(array.ndim == 0 for array in inputs.values()):
            raise InvalidArgument("Batching Run() input tensors must have at least one dimension")
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) > 1:
            raise InvalidArgument("Batching Run() input tensors must have equal 0th-dimension size")
        batch_size = sizes.pop()
        if batch_size > self.max_batch_size:
            raise InvalidArgument(
                f"Task size {batch_size} is larger than maximum input batch size {self.max_batch_size}"
            )
        return batch_size


def read_batching(path: Path | None) -> Batching:
    """Read a file of batching parameters; None means TensorFlow Serving's defaults."""
    return Batching() if path is None else read_proto(path, BatchingParameters, "batching parameters", _from_proto)


def _from_proto(message: Any) -> Batching:
    for field, minimum in _MINIMUMS.items():
        if message.HasField(field) and getattr(message, field).value < minimum:
            raise ConfigError(f"{field} must be at least {minimum}, got {getattr(message, field).value}")
    max_batch_size = message.max_batch_size.value if message.HasField("max_batch_size") else Batching.max_batch_size
    sizes = list(message.allowed_batch_sizes)
    if sizes and sizes[-1] != max_batch_size:
        raise ConfigError(
            "Last entry in allowed_batch_sizes must match max_batch_size; "
            f"last entry was {sizes[-1]}; expected {max_batch_size}"
        )
    if sizes != sorted({size for size in sizes if size > 0}):
        raise ConfigError(f"allowed_batch_sizes must be positive and ascend, got {sizes}")
    return Batching(max_batch_size, tuple(sizes))


def _pad(array: np.ndarray, padded_size: int) -> np.ndarray:
    """Pad with copies of the first entry, which is a valid input of the graph."""
    num_padding = padded_size - len(array)
    return np.concatenate([array, np.repeat(array[:1], num_padding, axis=0)]) if num_padding else array
