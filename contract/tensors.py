"""float32 and int32 tensors in TensorFlow's `TensorProto`, for the gateway and for `model_server`.

Messages are arguments: nothing here imports TensorFlow or its messages.
"""

from typing import Any

import numpy as np

DT_FLOAT, DT_INT32 = 1, 3
# Dtype of each `DataType` on the wire, and the field of its typed values.
_FIELDS = {DT_FLOAT: (np.dtype("<f4"), "float_val"), DT_INT32: (np.dtype("<i4"), "int_val")}


def flat_values(proto: Any) -> np.ndarray:
    """Return the values of a tensor, (values,), however many were sent: raw bytes, or else typed values.

    Raises:
        ValueError: another dtype, or bytes that are no whole number of values.
    """
    if proto.dtype not in _FIELDS:
        raise ValueError(f"tensor type {proto.dtype} is neither DT_FLOAT nor DT_INT32")
    dtype, field = _FIELDS[proto.dtype]
    content = proto.tensor_content
    if content:
        return np.frombuffer(content, dtype)
    return np.array(getattr(proto, field), dtype)


def set_type(proto: Any, data_type: int, shape: tuple[int, ...]) -> None:
    """Set the `DataType` and the shape of an empty tensor."""
    proto.dtype = data_type
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
