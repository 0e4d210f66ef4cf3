"""Affine maps of the vectors of a step: one matrix product each, and one sum at most.

TensorFlow's optimizer reorders longer sums, in an unrolled loop otherwise than in a plain one, which changes bits.
"""

import numpy as np
import tensorflow as tf

from export.graphs.precision import BFLOAT16, Precision, Vectors

# A tile of AMX takes as many inputs in bfloat16 at a time.
_TILE = 32
# Rows whose size is a multiple of this compete for the same lines of the cache: 1,024 units at batch size 8 take 540 µs
# a step, and 410 µs with rows that are longer by one tile (measured: `benchmarks/HISTORY.md`).
_ALIASED_BYTES = 2048
# A token that would be a larger part of the product's inputs costs more there than its row of the table.
MAX_TOKEN_SHARE = 0.25


class Projection(tf.Module):
    """An affine map of one or more vectors: h·R + x·W + … + bias.

    If the last vector is the embedding of a token, a table has x·W + bias for every token. In bfloat16 the bias is part
    of the product, and so is a token that is not too wide. Results are float32.
    """

    def __init__(
        self,
        kernels: list[np.ndarray],
        bias: np.ndarray,
        *,
        embedding: np.ndarray | None = None,
        with_bfloat16: bool = False,
    ) -> None:
        """Copy the weights.

        Args:
            kernels: float32 (inputs, outputs), one for each vector.
            bias: float32 (outputs,).
            embedding: float32 (V, inputs) if the last vector is that of a token.
            with_bfloat16: Whether to have a copy in bfloat16.
        """
        super().__init__()
        self.kernel = self.bias = self.table = self.columns = self.tokens = None
        *others, last = kernels
        if embedding is None:
            self.bias, others = _variable(bias), kernels
        else:
            self.table = _variable(embedding @ last + bias)
        if others:
            kernel = np.concatenate(others)
            self.kernel = _variable(kernel)
            if with_bfloat16:
                tokens, rows = (None, _two_terms(bias)) if embedding is None else _narrower(embedding, last, bias)
                self._set_columns(kernel, rows, tokens)

    def _set_columns(self, kernel: np.ndarray, rows: np.ndarray, tokens: np.ndarray | None) -> None:
        """Set the product's factor in bfloat16, (outputs, inputs), for vectors, and then `tokens` or ones."""
        if tokens is not None and len(rows) > MAX_TOKEN_SHARE * (len(kernel) + len(rows)):
            tokens, rows = None, rows[:0]
        padding = _padding(len(kernel) + len(rows))
        rows = np.pad(rows, [(0, padding), (0, 0)])
        self.columns = _variable(np.concatenate([kernel, rows]).T, tf.bfloat16)
        self.num_ones = len(rows) if tokens is None else 0
        if tokens is not None:
            self.tokens = _variable(np.pad(tokens, [(0, 0), (0, padding)]), tf.bfloat16)

    def __call__(self, precision: Precision, vectors: Vectors, token_ids: tf.Tensor) -> tf.Tensor:
        """Map vectors and, with an embedding, tokens int32 (batch,) to float32 in the layout of the precision."""
        if self.kernel is None:
            return precision.from_rows(gather(self.table, token_ids))
        if precision is BFLOAT16:
            product = self._product_in_bfloat16(vectors, token_ids)
            in_table = self.table is not None and self.tokens is None
            return product + tf.transpose(gather(self.table, token_ids)) if in_table else product
        product = tf.matmul(precision.concatenate(vectors), self.kernel)
        return product + (self.bias if self.table is None else gather(self.table, token_ids))

    def _product_in_bfloat16(self, vectors: Vectors, token_ids: tf.Tensor) -> tf.Tensor:
        """Return columns · vectors, (outputs, batch)."""
        parts = [tf.cast(vector, tf.bfloat16) for vector in vectors]
        if self.tokens is not None:
            parts.append(tf.transpose(gather(self.tokens, token_ids)))
        if self.num_ones:
            parts.append(tf.ones([self.num_ones, tf.size(token_ids)], tf.bfloat16))
        factor = BFLOAT16.concatenate(parts)
        return tf.cast(tf.matmul(self.columns, factor), tf.float32)


def gather(table: tf.Variable, token_ids: tf.Tensor) -> tf.Tensor:
    """Return the rows of a table for token ids.

    The value is read first. A session does not inline a function that gathers from the variable itself, as it takes
    that operation to have side effects: in float32 each step was a call (measured: `benchmarks/HISTORY.md`).
    """
    return tf.gather(table.read_value(), token_ids)


def _variable(values: np.ndarray, kind: tf.DType = tf.float32) -> tf.Variable:
    return tf.Variable(tf.cast(values, kind), trainable=False)


def _two_terms(bias: np.ndarray) -> np.ndarray:
    """Return two rows in bfloat16 whose sum is the bias, to 16 bits."""
    high = np.asarray(tf.cast(tf.cast(bias, tf.bfloat16), tf.float32))
    return np.stack([high, bias - high])


def _narrower(embedding: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two factors of embedding · kernel + bias, (V, width) and (width, outputs): the narrower pair of two.

    The width is V with one-hot tokens, or that of the embedding, and two for the bias.
    """
    vocab_size, width = embedding.shape
    if vocab_size <= width + 2:
        return np.eye(vocab_size, dtype=np.float32), embedding @ kernel + bias
    ones = np.ones((vocab_size, 2), np.float32)
    return np.concatenate([embedding, ones], axis=1), np.concatenate([kernel, _two_terms(bias)])


def _padding(size: int) -> int:
    """Return by how much a product has to have more inputs to be a number of tiles, and not aliased in the cache."""
    padding = -size % _TILE
    aliased = (size + padding) * tf.bfloat16.size % _ALIASED_BYTES == 0
    return padding + _TILE * aliased
