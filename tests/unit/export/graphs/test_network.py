"""A Keras model is read, or refused with the unsupported layer or option."""

import keras
import numpy as np
import pytest
from keras.layers import GRU, LSTM, Add, Bidirectional, Concatenate, Dense, Dropout, Embedding, Input

from export.config import load_config
from export.errors import UnsupportedModel
from export.graphs.network import CELLS, read_network
from export.training.model import build_model
from tests.unit.export.models import make_model


@pytest.mark.parametrize("cell", CELLS)
def test_sizes_are_read_from_the_layers(cell):
    network = read_network(make_model(cell, 2, units=10, vocab_size=9))
    assert (network.cell, network.vocab_size, len(network.recurrent), network.output_size) == (cell, 9, 2, 11)
    assert network.state_size == (10 + 11) * (2 if cell == "lstm" else 1)


def test_mixed_cells_have_no_cell_name_and_concatenate_their_states():
    network = read_network(build(LSTM(4, return_sequences=True), GRU(5, return_sequences=True), Dense(9)))
    assert (network.cell, network.state_size) == (None, 2 * 4 + 5)


def test_dropout_and_a_final_softmax_do_not_change_the_network(model):
    """Dropout is skipped, and logits are read before a softmax, be it an option or a layer."""
    *layers, dense = model.layers
    for end in (
        [Dense(dense.units, activation="softmax")],
        [Dense(dense.units), keras.layers.Softmax()],
        [Dense(dense.units), keras.layers.Activation("softmax")],
        [keras.layers.TimeDistributed(Dense(dense.units))],
    ):
        other = keras.Sequential([Input([None]), *layers, Dropout(0.5), *end])
        end[0].set_weights(dense.get_weights())
        assert read_network(other).sha256() == read_network(model).sha256()


def test_a_functional_and_a_sequential_model_have_the_same_hash(model):
    other = keras.Model(model.inputs, model.outputs)
    assert read_network(other).sha256() == read_network(model).sha256()


def test_every_weight_changes_the_hash(model):
    """Equal models have equal hashes."""
    hashes = {read_network(model).sha256(), read_network(make_model()).sha256()}
    assert len(hashes) == 1
    for weight in model.weights:
        weight.assign(weight + 1e-3)
        hashes.add(read_network(model).sha256())
    assert len(hashes) == 1 + len(model.weights)


def test_layer_options_and_connections_change_the_hash():
    """Equal weights used otherwise are another model."""
    settings = {"name": "m", "corpus": "c", "layers": 2, "units": 4, "embedding": 4}
    plain, residual = (
        build_model(load_config(None, {**settings, "connections": kind}), 9) for kind in ("none", "residual")
    )
    residual.set_weights(plain.get_weights())
    relu = build(LSTM(4, return_sequences=True, activation="relu"), Dense(9))
    tanh = build(LSTM(4, return_sequences=True), Dense(9))
    relu.set_weights(tanh.get_weights())
    assert len({read_network(model).sha256() for model in (plain, residual, relu, tanh)}) == 4


def build(*layers):
    return keras.Sequential([Input([None]), Embedding(9, 4), *layers])


def handed_on():
    """Build a model that passes the state of one layer to the next as `initial_state`."""
    x, *state = LSTM(4, return_sequences=True, return_state=True)(Embedding(9, 4)(token_ids := Input([None])))
    return keras.Model(token_ids, Dense(9)(LSTM(4, return_sequences=True)(x, initial_state=state)))


def two_inputs():
    first, second = Input([None]), Input([None])
    x = Concatenate()([Embedding(9, 4)(first), Embedding(9, 4)(second)])
    return keras.Model([first, second], Dense(9)(LSTM(4, return_sequences=True)(x)))


def operation():
    x = LSTM(4, return_sequences=True)(Embedding(9, 4)(token_ids := Input([None])))
    return keras.Model(token_ids, Dense(9)(x * 2))


def past_the_network():
    x = Embedding(9, 4)(token_ids := Input([None]))
    return keras.Model(token_ids, Dense(9)(Add()([Dense(4)(x), x])))


class OfAClass(keras.Model):
    def call(self, token_ids):
        return token_ids


REFUSED = {
    "no recurrent layer": (lambda: build(Dense(4), Dense(9)), "recurrent layers must lead to the last"),
    "no embedding": (lambda: keras.Sequential([Input([None, 3]), LSTM(4), Dense(9)]), "first layer must be Embedding"),
    "both ways": (lambda: build(Bidirectional(LSTM(4)), Dense(9)), r"Bidirectional\) cannot be run from token"),
    "another layer": (lambda: build(keras.layers.Conv1D(4, 2), LSTM(4), Dense(9)), r"Conv1D\) cannot be run"),
    "read backwards": (lambda: build(LSTM(4, return_sequences=True, go_backwards=True), Dense(9)), "go_backwards"),
    "a state handed on": (handed_on, "states that are passed explicitly are not supported"),
    "two inputs": (two_inputs, "must have one input and one output, got 2 inputs"),
    "an operation": (operation, r"Multiply 'multiply.*' is not a layer"),
    "no recurrence": (past_the_network, "recurrent layers must lead to the last"),
    "a class": (OfAClass, "neither Sequential nor functional"),
    "a sigmoid at the end": (lambda: build(LSTM(4, return_sequences=True), Dense(9, activation="sigmoid")),
                             "linear or softmax"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsupported_layer_or_option_is_refused(case):
    """Ignoring it would give wrong outputs without an error."""
    make, message = REFUSED[case]
    with pytest.raises(UnsupportedModel, match=message):
        read_network(make())


def test_nan_weights_are_refused(model):
    """A diverged model is not published."""
    model.weights[1].assign(np.full(model.weights[1].shape, np.nan))
    with pytest.raises(UnsupportedModel, match="NaN or infinite"):
        read_network(model)
