"""Affine maps of the vectors of a step: one matrix product for each part, and one sum at most.

The products of the parts can run in parallel, and slices of a single one would be copies in float32. TensorFlow's
optimizer reorders longer sums, in an unrolled loop otherwise than in a plain one, which changes bits.
"""

import numpy as np
import tensorflow as tf

from export.graphs.precision import BFLOAT16, Precision, Vectors

# Inputs in bfloat16 of an AMX tile.
_TILE = 32
# Rows whose size is a multiple of this compete for the same lines of the cache: 1,024 units at batch size 8 take 540 µs
# a step, and 410 µs with rows that are longer by one tile (measured: `benchmarks/HISTORY.md`).
_ALIASED_BYTES = 2048
# With a larger share of the product's inputs, a token costs more there than its row of the table.
MAX_TOKEN_SHARE = 0.25


class Projection(tf.Module):
    """An affine map of one or more vectors, h·R + x·W + … + bias, to one or more parts of equal width: the gates.

    If the last vector is the embedding of a token, a table has x·W + bias for every token. In bfloat16 the bias, and a
    token that is not too wide, are part of the product. Results are float32.
    """

    def __init__(
        self,
        kernels: list[np.ndarray],
        bias: np.ndarray,
        *,
        num_parts: int = 1,
        embedding: np.ndarray | None = None,
        with_bfloat16: bool = False,
    ) -> None:
        """Copy the weights.

        Args:
            kernels: float32 (inputs, outputs), one for each vector.
            bias: float32 (outputs,).
            num_parts: Number of parts of the outputs.
            embedding: float32 (V, inputs) if the last vector is that of a token.
            with_bfloat16: Whether to have a copy in bfloat16.
        """
        super().__init__()
        self.num_parts = num_parts
        self.kernels = self.biases = self.tables = self.columns = self.tokens = None
        *others, last = kernels
        if embedding is None:
            self.biases, others = self._variables(bias), kernels
        else:
            self.tables = self._variables(embedding @ last + bias)
        if others:
            kernel = np.concatenate(others)
            self.kernels = self._variables(kernel)
            if with_bfloat16:
                tokens, rows = (None, _two_terms(bias)) if embedding is None else _narrower(embedding, last, bias)
                self._set_columns(kernel, rows, tokens)

    def _set_columns(self, kernel: np.ndarray, rows: np.ndarray, tokens: np.ndarray | None) -> None:
        """Set each part's factor in bfloat16, (outputs, inputs), for vectors, and then `tokens` or ones."""
        if tokens is not None and len(rows) > MAX_TOKEN_SHARE * (len(kernel) + len(rows)):
            tokens, rows = None, rows[:0]
        padding = _padding(len(kernel) + len(rows))
        rows = np.pad(rows, [(0, padding), (0, 0)])
        columns = np.concatenate([kernel, rows]).T
        self.columns = [_variable(part, tf.bfloat16) for part in np.split(columns, self.num_parts)]
        self.num_ones = len(rows) if tokens is None else 0
        if tokens is not None:
            self.tokens = _variable(np.pad(tokens, [(0, 0), (0, padding)]), tf.bfloat16)

    def _variables(self, array: np.ndarray) -> list[tf.Variable]:
        """Return a variable for each part."""
        return [_variable(part) for part in np.split(array, self.num_parts, axis=-1)]

    def __call__(self, precision: Precision, vectors: Vectors, token_ids: tf.Tensor) -> Vectors:
        """Map vectors and, with an embedding, tokens int32 (batch,) to float32 parts in the layout of the precision."""
        if self.kernels is None:
            return [precision.from_rows(gather(table, token_ids)) for table in self.tables]
        if precision is BFLOAT16:
            return self._parts_in_bfloat16(vectors, token_ids)
        row = precision.concatenate(vectors)
        if self.tables is None:
            return [tf.matmul(row, kernel) + bias for kernel, bias in zip(self.kernels, self.biases, strict=True)]
        pairs = zip(self.kernels, self.tables, strict=True)
        return [tf.matmul(row, kernel) + gather(table, token_ids) for kernel, table in pairs]

    def _parts_in_bfloat16(self, vectors: Vectors, token_ids: tf.Tensor) -> Vectors:
        factors = [tf.cast(vector, tf.bfloat16) for vector in vectors]
        if self.tokens is not None:
            factors.append(tf.transpose(gather(self.tokens, token_ids)))
        if self.num_ones:
            factors.append(tf.ones([self.num_ones, tf.size(token_ids)], tf.bfloat16))
        factor = BFLOAT16.concatenate(factors)
        parts = [tf.cast(tf.matmul(columns, factor), tf.float32) for columns in self.columns]
        if self.tables is None or self.tokens is not None:
            return parts
        pairs = zip(parts, self.tables, strict=True)
        return [part + tf.transpose(gather(table, token_ids)) for part, table in pairs]


def gather(table: tf.Variable, token_ids: tf.Tensor) -> tf.Tensor:
    """Return the rows of a table for token ids.

    The value is read first. A session does not inline a function that gathers from the variable itself, an operation
    that it assumes to have side effects: in float32 each step was a call (measured: `benchmarks/HISTORY.md`).
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
    """Return the padding of a product's inputs to whole tiles without aliasing in the cache."""
    padding = -size % _TILE
    aliased = (size + padding) * tf.bfloat16.size % _ALIASED_BYTES == 0
    return padding + _TILE * aliased
