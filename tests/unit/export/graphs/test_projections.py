"""Projections compute bias + x·W + h·R in either precision, in whichever way they include the token."""

import numpy as np
import pytest

from export.graphs import projections
from export.graphs.precision import BFLOAT16, FLOAT32
from export.graphs.projections import Projection
from tests.unit.export.published import same_bits

BATCH_SIZE, UNITS, OUTPUTS = 8, 60, 24
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(BATCH_SIZE, UNITS)).astype(np.float32)
INPUTS = RNG.normal(size=(BATCH_SIZE, 6)).astype(np.float32)
KERNELS = [RNG.normal(size=(size, OUTPUTS)).astype(np.float32) for size in (UNITS, 6)]
BIAS = RNG.normal(size=OUTPUTS).astype(np.float32)


def compute(projection, precision, rows, token_ids):
    (mapped,) = projection(precision, [precision.from_rows(row) for row in rows], token_ids)
    return precision.to_rows(mapped).numpy()


@pytest.mark.parametrize(("precision", "tolerance"), [(FLOAT32, 1e-5), (BFLOAT16, 0.3)], ids=["float32", "bfloat16"])
def test_vectors_are_mapped(precision, tolerance):
    """Results in bfloat16 have 8 bits; here they are of the order of 10."""
    projection = Projection(KERNELS, BIAS, with_bfloat16=True)
    mapped = compute(projection, precision, [STATES, INPUTS], np.zeros(BATCH_SIZE, np.int32))
    np.testing.assert_allclose(mapped, STATES @ KERNELS[0] + INPUTS @ KERNELS[1] + BIAS, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("share", [None, 1.0, 0.0], ids=["vectors", "in the product", "in the table"])
@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16], ids=["float32", "bfloat16"])
def test_parts_are_those_of_one_part(share, precision, monkeypatch):
    monkeypatch.setattr(projections, "MAX_TOKEN_SHARE", share or 0.0)
    embedding = None if share is None else RNG.normal(size=(8, 6)).astype(np.float32)
    vectors = [precision.from_rows(row) for row in ([STATES, INPUTS] if share is None else [STATES])]
    token_ids = np.arange(BATCH_SIZE, dtype=np.int32)
    whole, parts = (
        Projection(KERNELS, BIAS, num_parts=count, embedding=embedding, with_bfloat16=True)(
            precision, vectors, token_ids
        )
        for count in (1, 3)
    )
    assert len(parts) == 3
    joined = np.concatenate([precision.to_rows(part) for part in parts], axis=1)
    np.testing.assert_allclose(joined, precision.to_rows(whole[0]), atol=1e-5)


@pytest.mark.parametrize("vocab_size", [8, 100], ids=["one-hot", "embedding"])
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["in the product", "in the table"])
@pytest.mark.parametrize(("precision", "tolerance"), [(FLOAT32, 1e-5), (BFLOAT16, 0.3)], ids=["float32", "bfloat16"])
def test_tokens_are_mapped(vocab_size, share, precision, tolerance, monkeypatch):
    monkeypatch.setattr(projections, "MAX_TOKEN_SHARE", share)
    embedding = RNG.normal(size=(vocab_size, 6)).astype(np.float32)
    projection = Projection(KERNELS, BIAS, embedding=embedding, with_bfloat16=True)
    assert (projection.tokens is None) == (share == 0.0)
    token_ids = np.arange(BATCH_SIZE, dtype=np.int32)
    expected = STATES @ KERNELS[0] + embedding[token_ids] @ KERNELS[1] + BIAS
    np.testing.assert_allclose(compute(projection, precision, [STATES], token_ids), expected, atol=tolerance, rtol=1e-5)


def test_a_bias_in_the_product_has_sixteen_bits():
    bias = np.float32([1 + 2**-12, -3.14159, 1e-3])
    projection = Projection([np.zeros((30, 3), np.float32)], bias, with_bfloat16=True)
    (columns,) = (part.numpy().astype(np.float32) for part in projection.columns)
    np.testing.assert_allclose(columns.sum(axis=1), bias, rtol=2**-16)
    mapped = compute(projection, BFLOAT16, [np.ones((8, 30), np.float32)], np.zeros(8, np.int32))
    np.testing.assert_allclose(mapped, np.tile(bias, (8, 1)), rtol=2**-8)


def test_padding_against_aliased_rows_changes_no_bit(monkeypatch):
    """The zeros that keep rows apart in the cache are one more tile."""
    plain = Projection(KERNELS, BIAS, with_bfloat16=True)
    monkeypatch.setattr(projections, "_ALIASED_BYTES", plain.columns[0].shape[1] * 2)
    padded = Projection(KERNELS, BIAS, with_bfloat16=True)
    assert padded.columns[0].shape[1] == plain.columns[0].shape[1] + 32
    ids = np.zeros(BATCH_SIZE, np.int32)
    assert same_bits(*(compute(each, BFLOAT16, [STATES, INPUTS], ids) for each in (plain, padded)))
