"""Values of a few sequences as the columns of a call with a fixed number of rows."""

from collections.abc import Sequence as Many

import numpy as np

Arrays = dict[str, np.ndarray]
# Outputs wanted, and the shape of each.
OutputShapes = dict[str, tuple[int, ...]]


def column(values: Many[float], batch_size: int, dtype: type, filler: float = 0) -> np.ndarray:
    """Put the sequences' values above those of the filler rows: (num_rows,)."""
    rows: np.ndarray = np.full(batch_size, filler, dtype)
    rows[: len(values)] = values
    return rows


def finite_sequences(outputs: Arrays) -> np.ndarray:
    """Return bool (batch,): whether every float of a row is finite, in all outputs of a call."""
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    finite: np.ndarray = np.logical_and.reduce([np.isfinite(it).reshape(len(it), -1).all(axis=1) for it in floats])
    return finite
