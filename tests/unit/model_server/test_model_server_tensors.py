"""Conversion of TensorProto to NumPy and back."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto

from model_server.errors import InvalidRequest
from model_server.flags import DIFFERENCES
from model_server.tensors import MAX_EXPANDED, decode, encode
from tests.paths import ROOT


def typed(dtype: int, shape: list[int], **fields: list[object]) -> TensorProto:
    """Return a TensorProto with these typed fields."""
    proto = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float64, np.int64, np.bool_, np.float16, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_tensor_content_and_typed_fields_decode_to_the_same_array(dtype: type[np.generic], shape: tuple[int, ...]):
    """With the same shape and dtype, for scalars and empty arrays, too."""
    array = (np.arange(np.prod(shape)).reshape(shape) - 1).astype(dtype)
    content = TensorProto(
        dtype=tf.as_dtype(dtype).as_datatype_enum,
        tensor_content=array.tobytes(),
        tensor_shape=tf.TensorShape(shape).as_proto(),
    )
    field = TensorProto()
    encode(array, tf.as_dtype(dtype).as_datatype_enum, field)
    for proto in (content, field):
        read = decode("x", proto)
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
def test_a_typed_field_of_another_length_decodes_as_in_tensorflow(proto: TensorProto, expected: list[object]):
    """The last of too few values is repeated, surplus ones are ignored, and no values are zeros."""
    assert decode("x", proto).tolist() == expected


@pytest.mark.parametrize(
    "proto",
    [
        TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"abc"),
        TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"abcdabcd"),
        typed(types_pb2.DT_FLOAT, [-1], float_val=[1.0]),
        typed(types_pb2.DT_INT64, [-1], int64_val=[1]),
        typed(types_pb2.DT_INT64, [-1], tensor_content=b"\0" * 16),
        typed(types_pb2.DT_UINT8, [1], int_val=[300]),
        TensorProto(dtype=types_pb2.DT_INVALID),
        TensorProto(dtype=types_pb2.DT_RESOURCE),
    ],
    ids=[
        "torn content",
        "content of another shape",
        "no shape",
        "no shape, int64",
        "no shape, content",
        "value out of range",
        "no dtype",
        "resource",
    ],
)
def test_a_tensor_that_cannot_be_decoded_is_named_in_the_error(proto: TensorProto):
    """The message starts as TensorFlow Serving's does."""
    with pytest.raises(InvalidRequest, match=r"^tensor parsing error: token_ids "):
        decode("token_ids", proto)


@pytest.mark.parametrize("shape", [[2**40], [2**26 + 1], [2**20, 65], [2**40, 2**40], [2**63 - 1] * 3], ids=str)
@pytest.mark.parametrize("sent", ["values", "none", "content"])
@pytest.mark.parametrize(
    ("dtype", "field", "value"),
    [
        (types_pb2.DT_FLOAT, "float_val", 1.0),
        (types_pb2.DT_INT32, "int_val", 1),
        (types_pb2.DT_UINT8, "int_val", 1),
        (types_pb2.DT_HALF, "half_val", 1),
        (types_pb2.DT_STRING, "string_val", b"a"),
    ],
    ids=["float", "int32", "uint8", "half", "string"],
)
def test_a_small_message_cannot_allocate_a_huge_tensor(
    monkeypatch: pytest.MonkeyPatch, dtype: int, field: str, value: object, sent: str, shape: list[int]
):
    """The declared shape is refused before either decoder is called."""
    monkeypatch.setattr("model_server.tensors.tf.make_ndarray", None)
    monkeypatch.setattr("model_server.tensors._decode_fast", None)
    fields = {"values": {field: [value]}, "none": {}, "content": {"tensor_content": b"\0" * 8}}[sent]
    with pytest.raises(InvalidRequest, match=r"^tensor parsing error: x .* has more than 67108864 elements"):
        decode("x", typed(dtype, shape, **fields))


def test_help_and_documentation_name_the_limit_of_expansion():
    """As `tensors` has it."""
    assert f"at most {MAX_EXPANDED:,} elements" in DIFFERENCES
    assert f"expanded to {MAX_EXPANDED:,} elements at most" in (ROOT / "docs/architecture.md").read_text()


def test_a_large_tensor_that_is_sent_in_full_is_decoded():
    """The limit is on elements that are not in the message."""
    proto = typed(types_pb2.DT_UINT8, [2**26 + 1], tensor_content=b"\1" * (2**26 + 1))
    assert decode("x", proto).nbytes == 2**26 + 1


@pytest.mark.parametrize(
    ("array", "field"),
    [
        (np.array([[1.5, -0.0], [np.inf, 3.4e38]], np.float32), "float_val"),
        (np.array([1.5, -2.0]), "double_val"),
        (np.array([-1, 2**31 - 1], np.int32), "int_val"),
        (np.array([-1, 3], np.int16), "int_val"),
        (np.array([-128, 127], np.int8), "int_val"),
        (np.array([0, 255], np.uint8), "int_val"),
        (np.array([0, 65535], np.uint16), "int_val"),
        (np.array([-(2**63), 2**63 - 1], np.int64), "int64_val"),
        (np.array([0, 2**32 - 1], np.uint32), "uint32_val"),
        (np.array([0, 2**64 - 1], np.uint64), "uint64_val"),
        (np.array([True, False]), "bool_val"),
        (np.array([b"a", b"\xff\x00"], object), "string_val"),
    ],
)
def test_an_array_is_encoded_in_the_typed_field_of_its_dtype(array: np.ndarray, field: str):
    """As TensorFlow Serving does by default, so a client that works here works there."""
    proto = TensorProto()
    encode(array, tf.as_dtype(array.dtype if array.dtype != object else tf.string).as_datatype_enum, proto)
    assert list(getattr(proto, field)) == array.ravel().tolist()
    assert proto.tensor_content == b""
    assert tuple(dim.size for dim in proto.tensor_shape.dim) == array.shape


@pytest.mark.parametrize("size", [0, 1, 31, 32, 4095, 4096, 600_000])
def test_float_arrays_of_any_size_are_encoded_bit_exactly(size: int):
    """The length prefix of the raw floats takes one byte or several."""
    array = np.random.default_rng(1).standard_normal(size, np.float32)
    proto = TensorProto()
    encode(array, types_pb2.DT_FLOAT, proto)
    again = TensorProto.FromString(proto.SerializeToString())
    assert np.array(again.float_val, np.float32).tobytes() == array.tobytes()


def test_a_non_contiguous_array_is_encoded_in_row_major_order():
    """A transposed view has another order in memory."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    proto = TensorProto()
    encode(array, types_pb2.DT_FLOAT, proto)
    assert list(proto.float_val) == [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
