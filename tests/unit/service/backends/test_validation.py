"""Validation of a Predict response, before its outputs are used."""

import numpy as np
import pytest

from service.backends.protos import predict_pb2
from service.backends.tensors import to_proto
from service.backends.validation import parse_response

SHAPES = {"state": (8, 2), "token_ids": (8, 4), "logprobs": (8, 4), "top_token_ids": (8, 4, 5), "sum": (8, 3)}


def outputs(**changed):
    """Return the bytes of a response that is valid for 50 tokens, with outputs replaced or, by None, removed."""
    arrays = {name: np.zeros(shape, np.int32 if "ids" in name else np.float32) for name, shape in SHAPES.items()}
    response = predict_pb2.PredictResponse()
    for name, array in {**arrays, **changed}.items():
        if array is not None:
            response.outputs[name].CopyFrom(to_proto(array))
    return response.SerializeToString()


def full(name, value, dtype=np.float32):
    """Return an output filled with one value."""
    return {name: np.full(SHAPES[name], value, dtype)}


def test_a_valid_response_is_returned_as_arrays():
    """They are the requested outputs; the largest token id and a logprob rounded above 0 are valid."""
    content = outputs(**full("token_ids", 49, np.int32), **full("logprobs", 1e-6), more=np.zeros(3, np.float32))
    arrays = parse_response(content, SHAPES, vocab_size=50)
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert arrays["token_ids"].max() == 49


def test_nan_is_not_an_invalid_response():
    """A sequence may compute it by itself, which only a retry on another replica shows."""
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
    """The message names the output, what it must be and what it is."""
    with pytest.raises(ValueError, match=message):
        parse_response(content, SHAPES, vocab_size=50)
