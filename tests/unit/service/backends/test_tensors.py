"""Conversion of arrays to and from TensorProto, as raw bytes and as typed values."""

import tracemalloc

import numpy as np
import pytest

from service.backends.protos import tensor_pb2, types_pb2
from service.backends.tensors import to_array, to_proto


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2), (0, 5), (2, 3, 4)])
def test_an_array_is_unchanged_after_a_round_trip(dtype, shape):
    """Its dtype, its shape and every value."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype) - 2
    again = to_array(to_proto(array), shape)
    assert again.dtype == dtype
    assert np.array_equal(again, array)


def test_typed_values_are_read():
    """TensorFlow Serving responds with typed values instead of raw bytes."""
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT32, int_val=[1, -2, 3, 4])
    for size in (2, 2):
        proto.tensor_shape.dim.add(size=size)
    assert to_array(proto, (2, 2)).tolist() == [[1, -2], [3, 4]]


def test_a_single_typed_value_fills_the_tensor():
    """The format allows this for a tensor of equal values."""
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[0.5])
    for size in (2, 3):
        proto.tensor_shape.dim.add(size=size)
    assert to_array(proto, (2, 3)).tolist() == [[0.5] * 3] * 2


@pytest.mark.parametrize(
    "proto",
    [
        tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2]),
        tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"12345"),
    ],
    ids=["type", "count", "bytes"],
)
def test_an_invalid_tensor_is_a_value_error(proto):
    """It has another type, or values that do not fill its shape."""
    proto.tensor_shape.dim.add(size=3)
    with pytest.raises(ValueError, match=r"tensor type|reshape|buffer size"):
        to_array(proto, (3,))


def test_the_shape_is_checked_before_a_single_value_is_repeated():
    """A tensor of thirty bytes that claims four terabytes allocates nothing."""
    proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[0.5])
    for size in (2**20, 2**20):
        proto.tensor_shape.dim.add(size=size)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"shape must be \(8, 2\), got \(1048576, 1048576\)"):
            to_array(proto, (8, 2))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
