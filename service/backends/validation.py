"""Validation of a backend's outputs: names, dtypes, shapes and value ranges.

A response that fails here is the backend's fault: a healthy backend gives a valid one to the same call. Non-finite
values are not checked here: the sequence itself may cause them, which only a retry on another backend can show.
"""

import numpy as np
from google.protobuf.message import DecodeError

from service.backends.protos import predict_pb2
from service.backends.tensors import to_array
from service.scheduling.padding import Arrays, OutputShapes

_TOKEN_IDS = frozenset({"token_ids", "top_token_ids"})
_LOGPROBS = frozenset({"logprobs", "top_logprobs"})
# A logprob is at most 0; float32 rounding may put it some 1e-7 above.
_MAX_LOGPROB = 1e-3


def parse_response(content: bytes, shapes: OutputShapes, vocab_size: int) -> Arrays:
    """Parse a PredictResponse and validate every requested output: its shape, and ids below `vocab_size`.

    Returns int32 for token ids, float32 for all others.

    Raises:
        ValueError: an output is missing, has another dtype or shape, or values out of range.
    """
    try:
        outputs = predict_pb2.PredictResponse.FromString(content).outputs
    except DecodeError as error:
        raise ValueError(f"not a PredictResponse: {error}") from error
    arrays: Arrays = {}
    for name, shape in shapes.items():
        if name not in outputs:
            raise ValueError(f"output {name} is missing")
        try:
            arrays[name] = to_array(outputs[name], shape)
        except ValueError as error:
            raise ValueError(f"output {name}: {error}") from error
        _check_values(name, arrays[name], vocab_size)
    return arrays


def _check_values(name: str, array: np.ndarray, vocab_size: int) -> None:
    expected = np.int32 if name in _TOKEN_IDS else np.float32
    if array.dtype != expected:
        raise ValueError(f"output {name} must be {np.dtype(expected)}, got {array.dtype}")
    if not array.size:
        return
    if name in _TOKEN_IDS and (array.min() < 0 or array.max() >= vocab_size):
        raise ValueError(f"output {name} must be from 0 to {vocab_size - 1}, got {array.min()} to {array.max()}")
    # Comparisons with NaN are false.
    if name in _LOGPROBS and (array > _MAX_LOGPROB).any():
        raise ValueError(f"output {name} must be at most 0, got {np.nanmax(array)}")
