"""The SavedModel of any supported architecture computes what the Keras model computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.layers import GRU, LSTM, Activation, Bidirectional, Dense, Embedding, Input, SimpleRNN, TimeDistributed

from contract.tokenizers import SpecialIds
from export.config import load_config
from export.errors import CheckFailed, UnsupportedModel
from export.graphs.checks import check_saved_model
from export.graphs.exportable import fixed_length, prepare, prepare_function
from export.graphs.signatures import Generator
from export.training.model import build_model
from tests.unit.export.published import END, Published, same_bits

V = 23
NUM_TOKENS = 21
SETTINGS = {"name": "m", "corpus": "c", "units": 10, "embedding": 6}


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch):
    """Trace each step once and not four times: the outputs are the same, and this file writes many SavedModels."""
    monkeypatch.setattr("export.graphs.cells.StatefulNetwork.unroll", 1)


def built(**settings):
    """Return a factory of a model that `build_model` makes from training settings."""
    return lambda: build_model(load_config(None, {**SETTINGS, **settings}), V)


def stack(*layers, length=None, **options):
    """Return a factory of a sequential model: an embedding and new copies of these layers."""

    def make():
        fresh = [type(layer).from_config(layer.get_config()) for layer in layers]
        return keras.Sequential([Input([length]), Embedding(V, 6, **options), *fresh])

    return make


def whole(kind, units, **options):
    """Make a layer with an output at every token."""
    return kind(units, return_sequences=True, **options)


def functional(connect, **options):
    """Return a factory of a functional model; `connect` maps the embedding of the input to the output."""

    def make():
        token_ids = Input([None], dtype="int32")
        return keras.Model(token_ids, connect(Embedding(V, 6, **options)(token_ids)))

    return make


def called_twice(x):
    """Call one Dense layer twice in sequence, with shared weights."""
    twice = Dense(7, activation="tanh")
    return Dense(V)(twice(twice(whole(LSTM, 7)(x))))


def in_precision(policy, make):
    """Return a factory of a model with a dtype policy other than float32."""

    def build():
        keras.config.set_dtype_policy(policy)
        try:
            return make()
        finally:
            keras.config.set_dtype_policy("float32")

    return build


def lesson_afresh():
    """Build a bidirectional model with new layers: a dtype policy applies when a layer is created."""
    return keras.Sequential([Input([9]), Embedding(V, 6), Bidirectional(LSTM(8)), Dense(V, activation="softmax")])


MODELS = {
    "residual": built(layers=3, connections="residual"),
    "skip": built(layers=2, connections="skip", cell="gru"),
    "tied": built(tie_embeddings=True, embedding=10),
    "tied by a projection": built(tie_embeddings=True, layers=2, connections="skip"),
    "mixed cells": stack(whole(LSTM, 7), whole(GRU, 5), whole(SimpleRNN, 6), Dense(V)),
    "other activations": stack(whole(LSTM, 7, activation="relu", recurrent_activation="hard_sigmoid"), Dense(V)),
    "no bias": stack(whole(GRU, 7, use_bias=False), Dense(V, use_bias=False)),
    "the original GRU": stack(whole(GRU, 7, reset_after=False), Dense(V)),
    "dense layers between": stack(Dense(5, activation="relu"), whole(LSTM, 7), Dense(8, activation="gelu"), Dense(V)),
    "the last token alone": stack(whole(LSTM, 7), LSTM(6), Dense(V, activation="softmax")),
    "a softmax layer": stack(whole(LSTM, 7), TimeDistributed(Dense(V)), Activation("softmax")),
    "a fixed length": stack(LSTM(7), Dense(V, activation="softmax"), length=9),
    "padding passed over, functional": functional(lambda x: Dense(V)(whole(LSTM, 7)(x)), mask_zero=True),
    "a layer called twice": functional(called_twice),
    "half precision": in_precision("mixed_float16", functional(lambda x: Dense(V)(whole(GRU, 7)(x)))),
    "padding passed over": stack(whole(LSTM, 7), whole(GRU, 6), Dense(V), mask_zero=True),
}
WINDOWS = {
    "both ways": built(bidirectional=True, context_length=7),
    "both ways, stacked and tied": built(
        bidirectional=True, context_length=5, layers=2, cell="gru", tie_embeddings=True
    ),
    "the lesson's": stack(Bidirectional(LSTM(8)), Dense(V, activation="softmax"), length=9),
    "double precision": in_precision("float64", lesson_afresh),
    "half precision, both ways": in_precision("mixed_bfloat16", lesson_afresh),
    "two softmaxes": stack(LSTM(8), Dense(V, activation="softmax"), keras.layers.Softmax(), length=6),
    "an activation that is a layer": stack(LSTM(8), Dense(6, activation=keras.layers.LeakyReLU()), Dense(V), length=6),
    "read backwards": stack(LSTM(8, go_backwards=True), Dense(V), length=6),
    "a convolution": stack(keras.layers.Conv1D(8, 3, padding="causal"), Dense(V), length=6),
    "all at once": stack(keras.layers.Flatten(), Dense(9, activation="tanh"), Dense(V, activation="softmax"), length=5),
}


def randomized(model):
    """Assign random weights that are large enough to change the outputs."""
    rng = np.random.default_rng(5)
    for weight in model.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape))
    return model


# These and `test_layers_may_be_shared_between_models` cover most kinds of layers and connections; the rest run in `make
# test-all`.
FIRST = {"tied by a projection", "half precision", "padding passed over"}


def write(model, folder):
    """Write the SavedModel alone, without card and tokenizer."""
    generator = Generator(model.network, SpecialIds(0, 1, END, None), NUM_TOKENS)
    tf.saved_model.save(generator, str(folder), signatures=generator.signatures())
    return folder


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FIRST else pytest.mark.slow) for name in (*MODELS, *WINDOWS)]
)
def test_the_savedmodel_computes_what_the_keras_model_does(name, tmp_path):
    """Checks every signature, and that a model gets a window only if its layers cannot carry state.

    The oracle of `check_saved_model` may be a rebuilt model. So the original model's output at the last token is
    compared, too.
    """
    keras.utils.set_random_seed(3)
    model = randomized({**MODELS, **WINDOWS}[name]())
    exportable = prepare(model)
    assert (exportable.context is not None) == (name in WINDOWS)
    check_saved_model(write(exportable, tmp_path), exportable, NUM_TOKENS)
    token_ids = np.random.default_rng(0).integers(0, NUM_TOKENS, (8, fixed_length(model) or 9)).astype(np.int32)
    published = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    logits = published(token_ids=tf.constant(token_ids))["logits"][:, -1]
    given = np.asarray(model(token_ids.astype(model.inputs[0].dtype), training=False))
    given = given[:, -1] if given.ndim == 3 else given
    given = given.astype(np.float32)
    expected = np.log(given) if exportable.gives_probabilities else tf.nn.log_softmax(given)
    # A model trained in half precision is served in float32.
    np.testing.assert_allclose(tf.nn.log_softmax(logits), expected, atol=0.03 if "half" in name else 2e-4)


def test_a_sliding_window_model_is_bit_exact_in_slices_and_the_check_finds_wrong_weights(tmp_path):
    """The check compares it with the Keras model, not with itself."""
    model = randomized(WINDOWS["the lesson's"]())
    published = Published.of(prepare(model).network, tmp_path)
    token_ids = np.random.default_rng(0).integers(3, NUM_TOKENS, (8, 20)).astype(np.int32)
    state = published.read(token_ids[:, :-1])
    assert state.tolist() == token_ids[:, -10:-1].tolist()
    assert same_bits(published.read(token_ids[:, 4:-1], published.read(token_ids[:, :4])), state)
    uniforms = np.random.default_rng(1).random((8, 12), dtype=np.float32)
    drawn = published.draw(token_ids[:, -1], state, uniforms)
    assert drawn["state"].tolist() == np.concatenate([token_ids, drawn["token_ids"]], axis=1)[:, -10:-1].tolist()
    first = published.draw(token_ids[:, -1], state, uniforms[:, :5])
    rest = published.draw(first["token_ids"][:, -1], first["state"], uniforms[:, 5:])
    assert same_bits(np.concatenate([first["token_ids"], rest["token_ids"]], axis=1), drawn["token_ids"])
    model.layers[-1].kernel.assign(model.layers[-1].kernel * 1.05)
    with pytest.raises(CheckFailed):
        check_saved_model(tmp_path, prepare(model), NUM_TOKENS)


def test_a_context_makes_a_stateful_model_a_sliding_window_model():
    exportable = prepare(MODELS["a fixed length"](), context=9)
    assert (exportable.context, exportable.network.state_size) == (9, 9)


def test_layers_may_be_shared_between_models(tmp_path):
    """Notebooks often build several models of the same layers."""
    model = randomized(MODELS["mixed cells"]())
    exportable = prepare(keras.Sequential([Input([9]), *model.layers]))
    check_saved_model(write(exportable, tmp_path / "model"), exportable, NUM_TOKENS)


def test_a_context_other_than_the_models_fixed_length_is_refused():
    with pytest.raises(UnsupportedModel, match="fixed length of 9 tokens, got a context length of 8"):
        prepare(WINDOWS["the lesson's"](), context=8)


def test_a_bidirectional_model_without_a_length_needs_a_context():
    model = stack(Bidirectional(LSTM(8)), Dense(V))()
    with pytest.raises(UnsupportedModel, match=r"Bidirectional\) cannot be run.*must be a sliding-window model"):
        prepare(model)
    assert prepare(model, context=4).context == 4


@pytest.mark.parametrize("soft", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_any_function_is_exported_as_a_sliding_window_model(soft, tmp_path):
    kernel = tf.Variable(np.random.default_rng(0).normal(0, 1, (V, V)).astype(np.float32))

    def function(token_ids):
        logits = tf.gather(kernel, token_ids) + tf.roll(tf.gather(kernel, token_ids), 1, axis=1)
        return tf.nn.softmax(logits) if soft else logits

    exportable = prepare_function(function, 4, [kernel], b"")
    assert exportable.gives_probabilities is soft
    write(exportable, tmp_path)
    check_saved_model(tmp_path, exportable, NUM_TOKENS)


def test_a_function_with_wrong_output_dtype_or_shape_is_refused():
    with pytest.raises(UnsupportedModel, match=r"got int32 of shape \(8, 4\)"):
        prepare_function(lambda token_ids: token_ids, 4, [], b"")
    with pytest.raises(UnsupportedModel, match=r"got float32 of shape \(8,\)"):
        prepare_function(lambda token_ids: tf.zeros([len(token_ids)]), 4, [], b"")


def test_a_subclassed_model_gets_a_window(tmp_path):
    class Written(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [Embedding(V, 6), LSTM(8), Dense(V)]

        def call(self, x):
            for part in self.parts:
                x = part(x)
            return x

    model = Written()
    model(np.zeros((1, 4), np.int32))
    exportable = prepare(model, context=4)
    check_saved_model(write(exportable, tmp_path), exportable, NUM_TOKENS)


def test_a_stateful_model_with_fixed_batch_is_exported_with_a_window(tmp_path):
    """Each window starts from the zero state, at any batch size."""
    model = keras.Sequential([Input(batch_shape=(1, None)), Embedding(V, 6), LSTM(8, stateful=True), Dense(V)])
    exportable = prepare(model, context=5)
    check_saved_model(write(exportable, tmp_path), exportable, NUM_TOKENS)


def test_sigmoid_outputs_are_refused():
    """Taken for logits, they would give nearly uniform probabilities."""
    with pytest.raises(UnsupportedModel, match="between 0 and 1, but they add up to"):
        prepare(stack(LSTM(8), Dense(V, activation="sigmoid"), length=5)())


def test_the_hash_covers_weights_length_and_structure():
    model = stack(Bidirectional(LSTM(8)), Dense(V))()
    hashes = [prepare(model, context).weights_sha256 for context in (4, 4, 3)]
    model.layers[-1].bias.assign_add(np.ones(V))
    hashes.append(prepare(model, 4).weights_sha256)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
