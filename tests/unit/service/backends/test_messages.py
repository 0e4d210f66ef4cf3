"""Arrays to and from TensorProto, as raw bytes and as typed values, and validation of a Predict response."""

import tracemalloc

import numpy as np
import pytest

from service.backends.messages import parse_response, predict_pb2, tensor_pb2, to_array, to_proto, types_pb2

SHAPES = {"state": (8, 2), "token_ids": (8, 4), "logprobs": (8, 4), "top_token_ids": (8, 4, 5), "sum": (8, 3)}


def tensor(*shape, **fields):
    proto = tensor_pb2.TensorProto(**fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 2), (0, 5), (2, 3, 4)])
def test_an_array_is_unchanged_after_a_round_trip(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype) - 2
    again = to_array(to_proto(array), shape)
    assert again.dtype == dtype
    assert np.array_equal(again, array)


def test_typed_values_are_read():
    """TensorFlow Serving responds with them instead of raw bytes; a single one fills a tensor of equal values."""
    values = tensor(2, 2, dtype=types_pb2.DT_INT32, int_val=[1, -2, 3, 4])
    assert to_array(values, (2, 2)).tolist() == [[1, -2], [3, 4]]
    single = tensor(2, 3, dtype=types_pb2.DT_FLOAT, float_val=[0.5])
    assert to_array(single, (2, 3)).tolist() == [[0.5] * 3] * 2


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("STRING", {}, "tensor type"),
        ("FLOAT", {"float_val": [1, 2]}, "reshape"),
        ("FLOAT", {"tensor_content": b"12345"}, "buffer size"),
    ],
)
def test_an_invalid_tensor_is_a_value_error(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        to_array(tensor(3, dtype=types_pb2.DataType.Value(f"DT_{kind}"), **fields), (3,))


def test_the_shape_is_checked_before_a_single_value_is_repeated():
    """A tensor of thirty bytes that claims four terabytes allocates nothing."""
    proto = tensor(2**20, 2**20, dtype=types_pb2.DT_FLOAT, float_val=[0.5])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"shape must be \(8, 2\), got \(1048576, 1048576\)"):
            to_array(proto, (8, 2))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def outputs(**changed):
    """Return the bytes of a response that is valid for 50 tokens, with outputs replaced or, by None, removed."""
    arrays = {name: np.zeros(shape, np.int32 if "ids" in name else np.float32) for name, shape in SHAPES.items()}
    response = predict_pb2.PredictResponse()
    for name, array in {**arrays, **changed}.items():
        if array is not None:
            response.outputs[name].CopyFrom(to_proto(array))
    return response.SerializeToString()


def full(name, value, dtype=np.float32):
    return {name: np.full(SHAPES[name], value, dtype)}


def test_a_valid_response_is_returned_as_arrays_also_with_nan():
    """A sequence may compute it by itself, which only a retry on another replica shows."""
    content = outputs(**full("token_ids", 49, np.int32), **full("logprobs", 1e-6), more=np.zeros(3, np.float32))
    arrays = parse_response(content, SHAPES, vocab_size=50)
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert arrays["token_ids"].max() == 49
    arrays = parse_response(outputs(**full("state", np.nan), **full("logprobs", np.nan)), SHAPES, vocab_size=50)
    assert np.isnan(arrays["state"]).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xff\xffjunk", "not a PredictResponse"),
        (b"", "output state is missing"),
        (outputs(state=None), "output state is missing"),
        (outputs(state=np.zeros((8, 3), np.float32)), r"output state: tensor shape must be \(8, 2\), got \(8, 3\)"),
        (outputs(state=np.zeros((16, 2), np.float32)), r"shape must be \(8, 2\), got \(16, 2\)"),
        (outputs(**full("state", 0, np.int32)), "output state must be float32, got int32"),
        (outputs(**full("token_ids", 0)), "output token_ids must be int32, got float32"),
        (outputs(**full("token_ids", 50, np.int32)), "output token_ids must be from 0 to 49, got 50 to 50"),
        (outputs(**full("token_ids", -1, np.int32)), "output token_ids must be from 0 to 49, got -1 to -1"),
        (outputs(**full("top_token_ids", 2**31 - 1, np.int32)), "output top_token_ids must be from 0 to 49"),
        (outputs(**full("logprobs", 0.5)), r"output logprobs must be at most 0, got 0\.5"),
        (outputs(**full("logprobs", np.inf)), "output logprobs must be at most 0, got inf"),
    ],
    # The bytes of a protobuf map differ from process to process, so they cannot be a test's id.
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_an_invalid_response_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_response(content, SHAPES, vocab_size=50)


@pytest.mark.parametrize("parents", [[-1, 2], [-1, -2], [0, -1]])
def test_a_parent_is_of_an_earlier_step(parents):
    """What a search's step has appended: to which of the sequences before, of two slots here."""
    content = outputs(parents=np.array([[-1, 1], parents], np.int32))
    with pytest.raises(ValueError, match="output parents must be sequences of the steps before, or -1"):
        parse_response(content, {"parents": (2, 2)}, vocab_size=50)
