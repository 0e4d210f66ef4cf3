"""The precisions in which a step computes, and how each lays out the vectors of a batch.

- `FLOAT32`: a sequence is a row, (batch, width), and a product is `x · kernel`.
- `BFLOAT16`: a sequence is a column, (width, batch), and a product is `kernelᵀ · x`, with both factors rounded to
  bfloat16. oneDNN repacks the second factor of such a product in every call, which must therefore be the small one
  (measured: `benchmarks/HISTORY.md`). States, biases, gates and logits stay float32.

Signatures take and return rows in either precision.
"""

import numpy as np
import tensorflow as tf

from contract import signatures

# Rows whose size is a multiple of this compete for the same lines of the cache: 1,024 units at batch size 8 take 540 µs
# a step, and 410 µs with rows that are longer by these zeros (measured: `benchmarks/HISTORY.md`).
_ALIASED_BYTES, _PADDING = 2048, 32

Vectors = list[tf.Tensor]


class Kernel(tf.Module):
    """A weight matrix, float32 (inputs, outputs), with a bfloat16 copy (outputs, inputs) for products in bfloat16."""

    def __init__(self, values: np.ndarray, *, with_bfloat16: bool = True) -> None:
        """Copy the values; `with_bfloat16` is False for a product that is always computed in float32."""
        super().__init__()
        self.float32 = tf.Variable(values, trainable=False, dtype=tf.float32)
        if with_bfloat16:
            columns = tf.cast(tf.transpose(values), tf.bfloat16)
            self.padding = _PADDING if columns.shape[1] * columns.dtype.size % _ALIASED_BYTES == 0 else 0
            self.bfloat16 = tf.Variable(tf.pad(columns, [[0, 0], [0, self.padding]]), trainable=False)


class Precision:
    """Products in float32, and vectors as rows; `_BFloat16` overrides what differs.

    Attributes:
        name: As in the names of signatures.
    """

    name: signatures.PrecisionName = signatures.FLOAT32

    def from_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Convert (batch, width) to this layout."""
        return rows

    def to_rows(self, vectors: tf.Tensor) -> tf.Tensor:
        """Convert this layout to (batch, width)."""
        return vectors

    def multiply(self, vectors: tf.Tensor, kernel: Kernel) -> tf.Tensor:
        """Multiply vectors of `inputs` units by a kernel; float32."""
        return tf.matmul(vectors, kernel.float32)

    def add(self, vectors: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """Add a bias, float32 (units,), to each vector."""
        return vectors + bias

    def select(self, active: tf.Tensor, new: Vectors, old: Vectors) -> Vectors:
        """Return the new vectors of sequences that are active, bool (batch,), and the old ones of the others."""
        return [tf.where(active[:, None], *pair) for pair in zip(new, old, strict=True)]

    def split(self, vectors: tf.Tensor, sizes: list[int]) -> Vectors:
        """Split vectors into parts of these numbers of units."""
        # Not `tf.split`, which copies as well along the last axis and was no faster (measured).
        ends = np.cumsum(sizes).tolist()
        return [vectors[:, end - size : end] for size, end in zip(sizes, ends, strict=True)] if sizes[1:] else [vectors]

    def concatenate(self, parts: Vectors) -> tf.Tensor:
        """Concatenate the parts of vectors."""
        return tf.concat(parts, axis=1) if parts[1:] else parts[0]


class _BFloat16(Precision):
    name = signatures.BFLOAT16

    def from_rows(self, rows: tf.Tensor) -> tf.Tensor:
        return tf.transpose(rows)

    def to_rows(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.transpose(vectors)

    def multiply(self, vectors: tf.Tensor, kernel: Kernel) -> tf.Tensor:
        factor = tf.cast(vectors, tf.bfloat16)
        if kernel.padding:
            factor = tf.pad(factor, [[0, kernel.padding], [0, 0]])
        return tf.cast(tf.matmul(kernel.bfloat16, factor), tf.float32)

    def add(self, vectors: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        return vectors + bias[:, None]

    def select(self, active: tf.Tensor, new: Vectors, old: Vectors) -> Vectors:
        return [tf.where(active[None, :], *pair) for pair in zip(new, old, strict=True)]

    def split(self, vectors: tf.Tensor, sizes: list[int]) -> Vectors:
        # Along the first axis it copies nothing.
        return tf.split(vectors, sizes, axis=0) if sizes[1:] else [vectors]

    def concatenate(self, parts: Vectors) -> tf.Tensor:
        return tf.concat(parts, axis=0) if parts[1:] else parts[0]


FLOAT32, BFLOAT16 = Precision(), _BFloat16()
