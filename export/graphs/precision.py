"""The precisions of a step, and each one's layout of the vectors of a batch.

- `FLOAT32`: a sequence is a row, (batch, width), and a product is `x · kernel`.
- `BFLOAT16`: a sequence is a column, (width, batch), and a product is `kernelᵀ · x`, with both factors rounded to
  bfloat16. oneDNN repacks the second factor of such a product in every call, which must therefore be the small one
  (measured: `benchmarks/HISTORY.md`). States, gates and logits stay float32.

Signatures take and return rows in either precision.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from contract import signatures

Vectors = list[tf.Tensor]


@dataclass(frozen=True)
class Precision:
    """The factors of products, and the layout of the vectors of a batch.

    Attributes:
        name: As in the names of signatures.
        axis: That of the units of the vectors: 1 for rows, 0 for columns.
    """

    name: signatures.PrecisionName
    axis: int

    def from_rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Convert (batch, width) to this layout."""
        return rows if self.axis else tf.transpose(rows)

    def to_rows(self, vectors: tf.Tensor) -> tf.Tensor:
        """Convert this layout to (batch, width)."""
        return vectors if self.axis else tf.transpose(vectors)

    def select(self, active: tf.Tensor, new: Vectors, old: Vectors) -> Vectors:
        """Return the new vectors of sequences that are active, bool (batch,), and the old ones of the others."""
        mask = active[:, None] if self.axis else active[None, :]
        return [tf.where(mask, *pair) for pair in zip(new, old, strict=True)]

    def split(self, vectors: tf.Tensor, sizes: list[int]) -> Vectors:
        """Split vectors into parts of these numbers of units."""
        if len(sizes) == 1:
            return [vectors]
        if self.axis == 0:
            # Along the first axis it copies nothing.
            return tf.split(vectors, sizes, axis=0)
        # Not `tf.split`, which copies as well along the last axis and was no faster (measured).
        ends = np.cumsum(sizes).tolist()
        return [vectors[:, end - size : end] for size, end in zip(sizes, ends, strict=True)]

    def concatenate(self, parts: Vectors) -> tf.Tensor:
        """Concatenate the parts of vectors."""
        return tf.concat(parts, self.axis) if len(parts) > 1 else parts[0]


FLOAT32, BFLOAT16 = Precision(signatures.FLOAT32, axis=1), Precision(signatures.BFLOAT16, axis=0)
