"""Conversion of TensorProto to NumPy and back."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from model_server.errors import InvalidArgument
from model_server.tensors import to_array, to_proto


def typed(dtype, shape, **fields):
    proto = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64, np.int64, np.bool_, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_tensor_content_and_encoded_arrays_decode_to_the_same_array(dtype, shape):
    array = (np.arange(np.prod(shape)).reshape(shape) - 1).astype(dtype)
    data_type = tf.as_dtype(dtype).as_datatype_enum
    content = typed(data_type, shape, tensor_content=array.tobytes())
    encoded = TensorProto()
    to_proto(array, data_type, encoded)
    for proto in (content, encoded):
        read = to_array("x", proto)
        assert (read.dtype, read.shape) == (array.dtype, shape)
        np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (typed(types_pb2.DT_FLOAT, [2, 2], float_val=[1.5]), [[1.5, 1.5], [1.5, 1.5]]),
        (typed(types_pb2.DT_INT32, [4], int_val=[1, 2]), [1, 2, 2, 2]),
        (typed(types_pb2.DT_INT64, [3], int64_val=[7]), [7, 7, 7]),
        (typed(types_pb2.DT_INT32, [2], int_val=[1, 2, 3]), [1, 2]),
        (typed(types_pb2.DT_FLOAT, [2]), [0.0, 0.0]),
        (typed(types_pb2.DT_STRING, [2], string_val=[b"a"]), [b"a", b"a"]),
    ],
    ids=["one float for all", "the last goes on", "int64", "surplus", "none", "strings"],
)
def test_a_typed_field_of_another_length_decodes_as_in_tensorflow(proto, expected):
    """The last of too few values is repeated, surplus ones are ignored, and no values are zeros."""
    assert to_array("x", proto).tolist() == expected


@pytest.mark.parametrize(
    "proto",
    [
        pytest.param(typed(types_pb2.DT_FLOAT, [], tensor_content=b"abc"), id="torn content"),
        pytest.param(typed(types_pb2.DT_FLOAT, [], tensor_content=b"abcdabcd"), id="content of another shape"),
        pytest.param(typed(types_pb2.DT_FLOAT, [-1], float_val=[1.0]), id="no shape"),
        pytest.param(typed(types_pb2.DT_INT64, [-1], int64_val=[1]), id="no shape, int64"),
        pytest.param(typed(types_pb2.DT_INT64, [-1], tensor_content=b"\0" * 16), id="no shape, content"),
        pytest.param(typed(types_pb2.DT_UINT8, [1], int_val=[300]), id="value out of range"),
        pytest.param(TensorProto(dtype=types_pb2.DT_INVALID), id="no dtype"),
        pytest.param(TensorProto(dtype=types_pb2.DT_RESOURCE), id="resource"),
    ],
)
def test_a_tensor_that_cannot_be_decoded_is_named_in_the_error(proto):
    """The message starts as TensorFlow Serving's does."""
    with pytest.raises(InvalidArgument, match=r"^tensor parsing error: token_ids "):
        to_array("token_ids", proto)


@pytest.mark.parametrize("shape", [[2**26 + 1], [2**20, 65], [2**40, 2**40], [2**63 - 1] * 3], ids=str)
@pytest.mark.parametrize("fields", [{"float_val": [1.0]}, {}, {"tensor_content": b"\0" * 8}], ids=str)
@pytest.mark.parametrize("dtype", [types_pb2.DT_FLOAT, types_pb2.DT_UINT8], ids=["fast", "other"])
def test_a_small_message_cannot_allocate_a_huge_tensor(monkeypatch, dtype, fields, shape):
    """The declared shape is refused before either conversion."""
    monkeypatch.setattr("model_server.tensors.tf.make_ndarray", None)
    monkeypatch.setattr("model_server.tensors._to_array_fast", None)
    with pytest.raises(InvalidArgument, match=r"^tensor parsing error: x .* has more than 67108864 elements"):
        to_array("x", typed(dtype, shape, **fields))


def test_a_large_tensor_that_is_sent_in_full_is_decoded():
    """The limit is on elements that are not in the message."""
    proto = typed(types_pb2.DT_UINT8, [2**26 + 1], tensor_content=b"\1" * (2**26 + 1))
    assert to_array("x", proto).nbytes == 2**26 + 1


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (np.array([[1.5, -0.0], [np.inf, 3.4e38]], np.float32), "float_val"),
        (np.array([[-1], [2**31 - 1]], np.int32), "int_val"),
        (np.arange(6, dtype=np.float32).reshape(2, 3).T, "float_val"),
    ],
    ids=["float32", "int32", "not contiguous"],
)
def test_an_array_is_encoded_in_the_typed_field_of_its_dtype_in_row_major_order(array, field):
    proto = TensorProto()
    to_proto(array, tf.as_dtype(array.dtype).as_datatype_enum, proto)
    assert list(getattr(proto, field)) == array.ravel().tolist()
    assert proto.tensor_content == b""
    assert tuple(dim.size for dim in proto.tensor_shape.dim) == array.shape


@pytest.mark.parametrize("size", [0, 1, 31, 32, 4095, 4096, 600_000])
def test_float_arrays_of_any_size_are_encoded_bit_exactly(size):
    """The length prefix of the raw floats takes one byte or several."""
    array = np.random.default_rng(1).standard_normal(size, np.float32)
    proto = TensorProto()
    to_proto(array, types_pb2.DT_FLOAT, proto)
    again = TensorProto.FromString(proto.SerializeToString())
    assert np.array(again.float_val, np.float32).tobytes() == array.tobytes()
