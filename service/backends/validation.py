"""Whether a backend's outputs are such as a model computes.

A response that fails here is the backend's fault: a healthy one answers the same call. Values that are not finite are
not looked at here: a sequence may have come to them by itself, which only another backend can tell.
"""

import numpy as np
from google.protobuf.message import DecodeError

from service.backends.protos import predict_pb2
from service.backends.tensors import to_array
from service.scheduling.padding import Arrays, OutputShapes

_TOKEN_IDS = frozenset({"token_ids", "top_token_ids"})
_LOGPROBS = frozenset({"logprobs", "top_logprobs"})
# A log probability is at most 0; float32 rounds it to some 1e-7 above.
_MAX_LOGPROB = 1e-3


def parse_response(content: bytes, shapes: OutputShapes, vocab_size: int) -> Arrays:
    """Parse the bytes of a PredictResponse, and check every output that was asked for.

    Args:
        content: As the backend sent them.
        shapes: The outputs that were asked for, and the shape of each.
        vocab_size: Token ids are below this.

    Returns:
        int32 token ids and float32 for all else, of those shapes.

    Raises:
        ValueError: an output is missing, of another type or shape, or has values that no model computes.
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
