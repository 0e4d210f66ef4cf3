"""A Keras model is read, or refused with the layer and the option that do not fit."""

import keras
import numpy as np
import pytest

from export.errors import UnsupportedModel
from export.weights import CELLS, read_weights
from tests.unit.export.models import make_model


@pytest.mark.parametrize("cell", CELLS)
def test_sizes_are_read_from_the_layers(cell):
    """Cell, state size and vocabulary follow from the layers."""
    weights = read_weights(make_model(cell, 2, units=10, vocab_size=9))
    assert (weights.cell, weights.vocab_size, len(weights.layers)) == (cell, 9, 2)
    assert weights.state_size == (10 + 11) * (2 if cell == "lstm" else 1)


def test_dropout_and_a_softmax_do_not_matter(model):
    """Dropout layers are left out, and logits are read from before a softmax."""
    *layers, dense = model.layers
    soft = keras.layers.Dense(dense.units, activation="softmax")
    other = keras.Sequential([keras.layers.Input([None]), *layers, keras.layers.Dropout(0.5), soft])
    soft.set_weights(dense.get_weights())
    assert read_weights(other).sha256() == read_weights(model).sha256()


def test_the_hash_follows_every_weight(model):
    """Changing any single array changes the hash; equal models have equal hashes."""
    hashes = {read_weights(model).sha256(), read_weights(make_model()).sha256()}
    assert len(hashes) == 1
    for weight in model.weights:
        weight.assign(weight + 1e-3)
        hashes.add(read_weights(model).sha256())
    assert len(hashes) == 1 + len(model.weights)


def build(*layers):
    """Build a model of the layers after an embedding."""
    return keras.Sequential([keras.layers.Input([None]), keras.layers.Embedding(9, 4), *layers])


LSTM, Dense = keras.layers.LSTM, keras.layers.Dense
REFUSED = {
    "no recurrent layer": (lambda: build(Dense(9)), "Embedding, then recurrent"),
    "mixed cells": (lambda: build(LSTM(4, return_sequences=True), keras.layers.GRU(4, return_sequences=True), Dense(9)),
                    "got LSTM, GRU"),
    "another layer between": (lambda: build(Dense(4), LSTM(4, return_sequences=True), Dense(9)), "got Dense, LSTM"),
    "only the last output": (lambda: build(LSTM(4), Dense(9)), "return_sequences must be True, got False"),
    "read backwards": (lambda: build(LSTM(4, return_sequences=True, go_backwards=True), Dense(9)), "go_backwards"),
    "no bias": (lambda: build(LSTM(4, return_sequences=True, use_bias=False), Dense(9)), "use_bias must be True"),
    "another activation": (lambda: build(LSTM(4, return_sequences=True, activation="relu"), Dense(9)),
                           "activation must be 'tanh', got 'relu'"),
    "the old GRU": (lambda: build(keras.layers.GRU(4, return_sequences=True, reset_after=False), Dense(9)),
                    "reset_after must be True"),
    "a sigmoid at the end": (lambda: build(LSTM(4, return_sequences=True), Dense(9, activation="sigmoid")),
                             "linear or softmax"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_model_that_would_be_computed_wrongly_is_refused(case):
    """Nothing that the cells do not compute is passed over in silence."""
    make, message = REFUSED[case]
    with pytest.raises(UnsupportedModel, match=message):
        read_weights(make())


def test_weights_that_are_not_numbers_are_refused(model):
    """A training that diverged is not published."""
    model.weights[1].assign(np.full(model.weights[1].shape, np.nan))
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        read_weights(model)
