"""`embed` sums the top layer's outputs, whatever the slices of a text."""

import keras
import numpy as np
import pytest

from tests.unit.export.published import IDS, ROWS, same_bits

LENGTH = IDS.shape[1]


def top_outputs(model, token_ids):
    """Run the Keras model up to its top recurrent layer: float32 (rows, T, U)."""
    return keras.Model(model.inputs, model.layers[-2].output).predict(token_ids, verbose=0)


def embed(published, token_ids, lengths=None, state=None, total=None):
    """Call `embed`, by default on whole texts from the zero state and the sum 0."""
    rows = len(token_ids)
    width = published.functions["embed"].structured_outputs["sum"].shape[1]
    return published.call(
        "embed",
        token_ids=token_ids,
        lengths=np.full(rows, token_ids.shape[1], np.int32) if lengths is None else lengths,
        state=published.zeros(rows) if state is None else state,
        sum=np.zeros((rows, width), np.float32) if total is None else total,
    )


def test_sum_and_last_equal_those_of_the_keras_top_layer(stack):
    model, published = stack
    outputs = top_outputs(model, IDS)
    got = embed(published, IDS)
    np.testing.assert_allclose(got["sum"] / LENGTH, outputs.mean(axis=1), atol=1e-4)
    np.testing.assert_allclose(got["last"], outputs[:, -1], atol=1e-4)
    assert same_bits(got["state"], published.read(IDS))


@pytest.mark.parametrize("length", [0, LENGTH])
def test_an_empty_sequence_keeps_its_state_and_sum(published, length):
    before = embed(published, IDS)
    lengths = np.full(ROWS, length, np.int32)
    lengths[0] = 0
    after = embed(published, IDS[:, :length], lengths, before["state"], before["sum"])
    assert same_bits(after["state"][0], before["state"][0])
    assert same_bits(after["sum"][0], before["sum"][0])
    assert not after["last"][0].any()
