"""TensorFlow Serving's messages without TensorFlow, their conversion from and to arrays, and the check of responses.

`tensorflow_serving.apis` imports `tensorflow.core.…_pb2`, and that runs `tensorflow/__init__.py`: 687 MB and 2.6 s in
every worker. With a placeholder module of that name, whose `__path__` is the installed package's, only the generated
messages load: 55 MB and 0.2 s (measured). The placeholder is removed afterwards, so a later real import works.
"""

import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from contract.tensors import DT_FLOAT, DT_INT32, flat_values, set_type
from service.scheduling.call import Arrays, OutputShapes


@contextmanager
def _placeholder_for_tensorflow() -> Iterator[None]:
    """Install the placeholder, unless `tensorflow` is already imported, not installed or a namespace package."""
    spec = None if "tensorflow" in sys.modules else importlib.util.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        yield
        return
    module = types.ModuleType("tensorflow")
    module.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["tensorflow"] = module
    try:
        yield
    finally:
        # The messages stay loaded as tensorflow.core.…; only the placeholder that hides the real package is removed.
        if sys.modules.get("tensorflow") is module:
            del sys.modules["tensorflow"]


with _placeholder_for_tensorflow():
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )
    from tensorflow_serving.config import model_server_config_pb2

__all__ = [
    "get_model_status_pb2",
    "model_server_config_pb2",
    "model_service_pb2_grpc",
    "predict_pb2",
    "prediction_service_pb2_grpc",
    "tensor_pb2",
    "types_pb2",
]

_TYPES = {np.dtype(np.float32): DT_FLOAT, np.dtype(np.int32): DT_INT32}
_TOKEN_IDS = frozenset({"token_ids", "top_token_ids"})
_PARENTS = "parents"
_LOGPROBS = frozenset({"logprobs", "top_logprobs"})
# A logprob is at most 0; float32 rounding may put it some 1e-7 above.
_MAX_LOGPROB = 1e-3


def to_proto(array: np.ndarray) -> Any:
    """Convert a float32 or int32 array; one that `np.broadcast_to` made of a scalar is sent as a single value."""
    is_constant = bool(array.size) and not any(array.strides)
    proto = tensor_pb2.TensorProto() if is_constant else tensor_pb2.TensorProto(tensor_content=array.tobytes())
    data_type = _TYPES[array.dtype]
    set_type(proto, data_type, array.shape)
    if is_constant:
        (proto.float_val if data_type == DT_FLOAT else proto.int_val).append(array.flat[0])
    return proto


def to_array(proto: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert a float32 or int32 tensor of a known shape.

    TensorFlow Serving returns typed values, others raw bytes; both are supported (32 × 1,024 float32 in 4 µs). The
    shape is checked first: one value may stand for a tensor of any size, so a few bytes could expand to gigabytes.

    Raises:
        ValueError: another dtype or shape, or a number of values that does not fit the shape.
    """
    announced = tuple(dim.size for dim in proto.tensor_shape.dim)
    if announced != shape:
        raise ValueError(f"tensor shape must be {shape}, got {announced}")
    flat = flat_values(proto)
    if flat.size == 1 and not proto.tensor_content:
        # TensorProto's compact form of a constant tensor.
        flat = np.full(math.prod(shape), flat[0])
    return flat.reshape(shape)


def parse_response(content: bytes, shapes: OutputShapes, vocab_size: int) -> Arrays:
    """Parse a PredictResponse and validate every requested output: its shape, and ids below `vocab_size`.

    Returns int32 for token ids, float32 for all others. A healthy backend gives a valid response to the same call.
    Non-finite values are not checked here: the sequence itself may cause them, which only a retry on another backend
    can show.

    Raises:
        ValueError: an output is missing, has another dtype or shape, or values out of range.
    """
    try:
        outputs = predict_pb2.PredictResponse.FromString(content).outputs
    except DecodeError as error:
        raise ValueError(f"not a PredictResponse: {error}") from error
    arrays: Arrays = {}
    for name, shape in shapes.items():
        if name not in outputs:
            raise ValueError(f"output {name} is missing")
        try:
            arrays[name] = to_array(outputs[name], shape)
        except ValueError as error:
            raise ValueError(f"output {name}: {error}") from error
        _check_values(name, arrays[name], vocab_size)
    return arrays


def _check_values(name: str, array: np.ndarray, vocab_size: int) -> None:
    expected = np.int32 if name in _TOKEN_IDS | {_PARENTS} else np.float32
    if array.dtype != expected:
        raise ValueError(f"output {name} must be {np.dtype(expected)}, got {array.dtype}")
    if not array.size:
        return
    if name in _TOKEN_IDS and (array.min() < 0 or array.max() >= vocab_size):
        raise ValueError(f"output {name} must be from 0 to {vocab_size - 1}, got {array.min()} to {array.max()}")
    if name == _PARENTS and ((array < -1) | (array >= len(array) * np.arange(array.shape[1]))).any():
        raise ValueError(f"output {name} must be sequences of the steps before, or -1, got {array.tolist()}")
    # Comparisons with NaN are false.
    if name in _LOGPROBS and (array > _MAX_LOGPROB).any():
        raise ValueError(f"output {name} must be at most 0, got {np.nanmax(array)}")
