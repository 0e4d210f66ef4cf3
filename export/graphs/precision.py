"""The precisions of a step, and each one's layout of the vectors of a batch.

- `FLOAT32`: a sequence is a row, (batch, width), and a product is `x · kernel`.
- `BFLOAT16`: a sequence is a column, (width, batch), and a product is `kernelᵀ · x`, with both factors rounded to
  bfloat16. oneDNN repacks the second factor of such a product in every call, which must therefore be the small one
  (measured: `benchmarks/HISTORY.md`). States, gates and logits stay float32.

Signatures take and return rows in either precision.
"""

import numpy as np
import tensorflow as tf

from contract import signatures

Vectors = list[tf.Tensor]


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

    def select(self, active: tf.Tensor, new: Vectors, old: Vectors) -> Vectors:
        return [tf.where(active[None, :], *pair) for pair in zip(new, old, strict=True)]

    def split(self, vectors: tf.Tensor, sizes: list[int]) -> Vectors:
        # Along the first axis it copies nothing.
        return tf.split(vectors, sizes, axis=0) if sizes[1:] else [vectors]

    def concatenate(self, parts: Vectors) -> tf.Tensor:
        return tf.concat(parts, axis=0) if parts[1:] else parts[0]


FLOAT32, BFLOAT16 = Precision(), _BFloat16()
