"""Padding of per-sequence values to a batch size, and the check that outputs are finite."""

from collections.abc import Sequence as Many

import numpy as np

Arrays = dict[str, np.ndarray]
# Requested outputs: shape by name.
OutputShapes = dict[str, tuple[int, ...]]


def column(values: Many[float], batch_size: int, dtype: type, pad_value: float = 0) -> np.ndarray:
    """Return an array (batch_size,): the sequences' values, then padding."""
    padded: np.ndarray = np.full(batch_size, pad_value, dtype)
    padded[: len(values)] = values
    return padded


def finite_sequences(outputs: Arrays) -> np.ndarray:
    """Return bool (batch,): whether all floats of a slot are finite, over all outputs of a call."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    finite: np.ndarray = np.logical_and.reduce([np.isfinite(it).reshape(len(it), -1).all(axis=1) for it in floats])
    return finite
