"""Conversion between TensorProto and NumPy, in the encodings that TensorFlow Serving reads and writes."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from contract.tensors import flat_values, set_type
from model_server.errors import InvalidArgument

# The dtypes that generators exchange; `tf.make_ndarray` takes 2 to 5 times as long for small ones.
_FAST = {types_pb2.DT_FLOAT, types_pb2.DT_INT32}
# Maximum number of elements to which fewer values are padded: 256 MiB of floats, such as a row for each token of a
# vocabulary of a million, at batch size 64.
# A request of 50 bytes may declare any shape, and TensorFlow Serving tries to allocate it.
MAX_EXPANDED = 2**26
# `float_val` on the wire: field 5, length-delimited; then a length and the raw little-endian floats.
_FLOAT_VAL_TAG = b"\x2a"


def dtype_name(dtype: int) -> str:
    """Return the name of a `DataType` in TensorFlow's messages, such as float or int32."""
    names = types_pb2.DataType
    return names.Name(dtype).removeprefix("DT_").lower() if dtype in names.values() else str(dtype)


def to_array(name: str, proto: TensorProto) -> np.ndarray:
    """Convert a tensor, except resources and variants, from `tensor_content` or from its typed field.

    As in TensorFlow, a typed field with too few values is padded with its last value. Surplus float32 and int32 values
    are ignored, those of other dtypes refused. Unlike there, padding is limited to `MAX_EXPANDED` elements.

    Raises:
        InvalidArgument: the tensor is invalid.
    """
    try:
        shape = _read_shape(proto)
        return _to_array_fast(proto, shape) if proto.dtype in _FAST else tf.make_ndarray(proto)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"tensor parsing error: {name} ({error})") from error


def _read_shape(proto: TensorProto) -> list[int]:
    """Return the declared shape, before anything of its size is allocated."""
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"unknown shape {shape}")
    # Each value takes at least one byte of the message.
    if math.prod(shape) > max(MAX_EXPANDED, proto.ByteSize()):
        raise ValueError(f"shape {shape} has more than {MAX_EXPANDED} elements, and not all of them were sent")
    return shape


def _to_array_fast(proto: TensorProto, shape: list[int]) -> np.ndarray:
    values, size = flat_values(proto), math.prod(shape)
    if proto.tensor_content:
        return values.reshape(shape)
    if len(values) < size:
        values = np.concatenate([values, np.full(size - len(values), values[-1] if len(values) else 0, values.dtype)])
    return values[:size].reshape(shape)


def to_proto(array: np.ndarray, dtype: int, proto: TensorProto) -> None:
    """Write an array to an empty tensor: float32 and int32 into typed fields, as TensorFlow Serving does by default.

    The array is as TensorFlow's `numpy()` returns it: strings are objects of type bytes.
    """
    if dtype not in _FAST:
        proto.CopyFrom(tf.make_tensor_proto(array, dtype=dtype))
        return
    set_type(proto, dtype, array.shape)
    if dtype == types_pb2.DT_INT32:
        proto.int_val.extend(array.ravel().tolist())
        return
    content = array.astype("<f4", copy=False).tobytes()
    # 10 µs for 32,768 floats; `extend` takes 3 ms.
    proto.MergeFromString(_FLOAT_VAL_TAG + _varint(len(content)) + content)


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >> 7:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
