"""Imported models: Keras 2 and 3 files and SavedModels are read, or refused with a one-line error."""

import json
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from export.errors import UnsupportedModel
from export.imported.model import load_keras, read_imported
from tests.built import built

V = 30
# Keras 2 warns that its HDF5 format is legacy.
pytestmark = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file", "ignore:::tf_keras")


def lesson(kit, length=9):
    """Build the bidirectional next-word model of a common Keras tutorial, with a padded window as input."""
    layers = kit.layers
    return kit.Sequential(
        [
            layers.Input([length]),
            layers.Embedding(V, 8),
            layers.Bidirectional(layers.LSTM(5)),
            layers.Dense(V, activation="softmax"),
        ]
    )


def tutorial(kit):
    """Build the model of TensorFlow's earlier tutorial on text generation: a stateful GRU with batch size 1."""
    layers = kit.layers
    return kit.Sequential(
        [
            layers.Input(batch_shape=[1, None]) if kit is keras else layers.Input(batch_input_shape=[1, None]),
            layers.Embedding(V, 8),
            layers.GRU(7, return_sequences=True, stateful=True, recurrent_initializer="glorot_uniform"),
            layers.Dense(V),
        ]
    )


def old_tutorial(kit):
    """Build the same with the input shape on the first layer, as was usual."""
    layers = kit.layers
    embedding = layers.Embedding(V, 8, batch_input_shape=[1, None])
    return kit.Sequential([embedding, layers.GRU(7, return_sequences=True, stateful=True), layers.Dense(V)])


class Tutorial(keras.Model):
    """The model of TensorFlow's current tutorial: subclassed, with states as arguments and outputs."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(V, 8)
        self.gru = keras.layers.GRU(7, return_sequences=True, return_state=True)
        self.dense = keras.layers.Dense(V)

    def call(self, inputs, states=None, return_state=False, training=False):
        x = self.embedding(inputs, training=training)
        if states is None:
            states = self.gru.get_initial_state(tf.shape(x)[0])
        x, states = self.gru(x, initial_state=states, training=training)
        x = self.dense(x, training=training)
        return (x, states) if return_state else x


IDS = np.random.default_rng(0).integers(0, V, (8, 9)).astype(np.int32)


def same_answers(foreign, expected):
    """Require that the oracle of the export check has the expected probabilities of the last token."""
    got = tf.nn.log_softmax(foreign.logits(IDS)[:, -1])
    np.testing.assert_allclose(got, tf.nn.log_softmax(np.log(expected)), atol=1e-4)


@pytest.mark.parametrize(("kit", "suffix"), [(keras, "keras"), (tf_keras, "h5")], ids=["keras 3", "keras 2"])
def test_the_layers_of_the_current_tutorial_carry_their_state(kit, suffix, tmp_path):
    layers = kit.layers
    embedding, gru, dense = (
        layers.Embedding(V, 8),
        layers.GRU(7, return_sequences=True, return_state=True),
        layers.Dense(V),
    )
    ids = kit.Input([None])
    outputs, *_ = gru(embedding(ids))
    model = kit.Model(ids, dense(outputs))
    model.save(path := tmp_path / f"lesson.{suffix}")
    foreign, _ = read_imported(path, None)
    assert (foreign.context, foreign.network.state_size) == (None, 7)
    same_answers(foreign, tf.nn.softmax(model(IDS)[:, -1]))


@pytest.mark.parametrize("kit", [keras, tf_keras], ids=["keras 3", "keras 2"])
def test_a_bidirectional_model_gets_a_window_of_its_input_length(kit, tmp_path):
    """A call detects whether its outputs are probabilities."""
    model = lesson(kit)
    path = tmp_path / ("lesson.keras" if kit is keras else "lesson.h5")
    model.save(path)
    foreign, lines = read_imported(path, None)
    same_answers(foreign, np.asarray(model(IDS)))
    assert foreign.context == 9
    why, kind = lines[1:]
    assert (re.sub(r"_\d+'", "'", why), kind) == (
        "it is a sliding-window model of 9 tokens, padded on the left: no state can be carried, as layer "
        "'bidirectional' (Bidirectional) cannot be run from token to token",
        "its outputs are probabilities of 30 tokens",
    )


@pytest.mark.parametrize(
    ("make", "kit", "suffix"),
    [(tutorial, keras, "keras"), (tutorial, tf_keras, "h5"), (old_tutorial, tf_keras, "h5")],
    ids=["keras 3", "keras 2", "keras 2, in the old way"],
)
def test_a_stateful_model_of_batch_size_1_carries_its_state(make, kit, suffix, tmp_path):
    model = make(kit)
    path = tmp_path / f"tutorial.{suffix}"
    model.save(path)
    foreign, lines = read_imported(path, None)
    assert foreign.context is None
    assert "it carries its state from token to token: 7 floats per sequence" in lines
    assert lines[-1] == "its outputs are logits of 30 tokens"
    logits = foreign.logits(IDS)
    for row in range(2):
        getattr(model, "reset_states", lambda: [layer.reset_state() for layer in model.layers[1:2]])()
        np.testing.assert_allclose(logits[row], np.asarray(model(IDS[row : row + 1]))[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "Bidirectional", "RNN", "stacked"])
def test_hard_sigmoid_of_a_keras_2_model_is_that_of_keras_2(kind, tmp_path):
    """Keras 3 has another function of that name."""
    layers = tf_keras.layers
    options = {"recurrent_activation": "hard_sigmoid"}
    recurrent = layers.GRU(7, **options) if kind == "GRU" else layers.LSTM(7, **options)
    recurrent = layers.Bidirectional(recurrent) if kind == "Bidirectional" else recurrent
    recurrent = layers.RNN(layers.LSTMCell(7, **options)) if kind == "RNN" else recurrent
    recurrent = layers.RNN([layers.GRUCell(7, **options), layers.LSTMCell(5)]) if kind == "stacked" else recurrent
    model = tf_keras.Sequential([layers.Embedding(V, 8, input_length=9), recurrent, layers.Dense(V)])
    model.build((None, 9))
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).normal(0, 0.8, weight.shape))
    model.save(tmp_path / "old.h5")
    got = read_imported(tmp_path / "old.h5", None)[0].logits(IDS)[:, -1]
    np.testing.assert_allclose(got, model(IDS), atol=1e-4)


def test_a_keras_2_sequential_without_an_input_layer_is_read(tmp_path):
    """Early releases saved the input shape in the first layer."""
    model = old_tutorial(tf_keras)
    model.save(tmp_path / "old.h5")
    with h5py.File(tmp_path / "old.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"] = config["config"]["layers"][1:]
        file.attrs["model_config"] = json.dumps(config)
    assert (
        "it carries its state from token to token: 7 floats per sequence" in read_imported(tmp_path / "old.h5", None)[1]
    )


def test_a_subclassed_model_is_imported_from_its_savedmodel(tmp_path):
    model = Tutorial()
    expected = np.asarray(tf.nn.softmax(model(IDS)[:, -1]))
    model.save(tmp_path / "tutorial.keras")
    with pytest.raises(
        UnsupportedModel, match=r"layer class 'Tutorial' is not one of Keras's; .*model.export\('directory'\)"
    ):
        read_imported(tmp_path / "tutorial.keras", None)
    open_length = [tf.TensorSpec([None, None], tf.int32)]
    model.export(str(tmp_path / "folder"), input_signature=open_length, verbose=False)
    with pytest.raises(UnsupportedModel, match=r"no fixed length.*--context-length"):
        read_imported(tmp_path / "folder", None)
    foreign, lines = read_imported(tmp_path / "folder", 9)
    same_answers(foreign, expected)
    assert lines[-1] == "its outputs are logits of 30 tokens"


def save_keras_2(folder):
    model = lesson(tf_keras)
    tf.saved_model.save(model, str(folder / "model"))
    np.save(folder / "answers.npy", np.asarray(model(IDS)))


def test_a_keras_2_savedmodel_of_fixed_length_is_imported():
    """The window has the length of the signature; the input may be float."""
    saved = built("keras-2", save_keras_2, tf_keras.__version__, ("requirements.txt",))
    foreign, _ = read_imported(saved / "model", None)
    assert foreign.context == 9
    same_answers(foreign, np.load(saved / "answers.npy"))


def test_a_window_may_be_given_for_a_stateful_model(tmp_path):
    """A model trained on padded windows is best served with them; a line of the output suggests it."""
    layers = keras.layers
    model = keras.Sequential([layers.Input([9]), layers.Embedding(V, 8), layers.LSTM(5), layers.Dense(V)])
    model.save(tmp_path / "m.keras")
    assert "--context-length 9 serves it as it was trained" in "".join(read_imported(tmp_path / "m.keras", None)[1])
    foreign, lines = read_imported(tmp_path / "m.keras", 9)
    assert lines[1] == "it is a sliding-window model of 9 tokens, padded on the left: as --context-length requests"
    same_answers(foreign, np.asarray(tf.nn.softmax(model(IDS))))


def save(model, path):
    model.save(path)
    return path


@keras.saving.register_keras_serializable("theirs")
class Own(keras.layers.Layer):
    """A custom layer, whose code only its author has."""

    def call(self, x):
        return x


def custom(path, suffix):
    model = keras.Sequential([keras.layers.Input([9]), keras.layers.Embedding(V, 8), Own(), keras.layers.LSTM(5)])
    model.save(path / f"custom.{suffix}")
    return path / f"custom.{suffix}"


def with_lambda(path):
    x = keras.layers.Embedding(V, 8)(ids := keras.layers.Input([9]))
    x = keras.layers.Lambda(lambda x: x * 2, output_shape=(9, 8))(x)
    return save(keras.Model(ids, keras.layers.Dense(V)(keras.layers.LSTM(5)(x))), path / "lambda.keras")


def weights_alone(path):
    lesson(tf_keras).save_weights(path / "weights.h5")
    return path / "weights.h5"


def keras_2_zip(path):
    with zipfile.ZipFile(path / "old.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
    return path / "old.keras"


def written(path, content):
    path.write_bytes(content)
    return path


def broken_h5(path):
    with h5py.File(path / "broken.h5", "w") as file:
        file.attrs["model_config"] = "{"
    return path / "broken.h5"


def no_text(path):
    return save(keras.Sequential([keras.layers.Input([9, 3]), keras.layers.LSTM(5)]), path / "m.keras")


def too_short(path):
    layers = keras.layers
    model = keras.Sequential([layers.Input([None]), layers.Embedding(V, 8), layers.Conv1D(5, 5), layers.LSTM(5)])
    return save(keras.Sequential([model, layers.Dense(V)]), path / "m.keras")


def not_finite(path):
    model = lesson(keras)
    model.layers[-1].bias.assign(np.full(V, np.nan))
    return save(model, path / "m.keras")


def of_one_text(path):
    model = lesson(keras)
    model.export(str(path / "m"), input_signature=[tf.TensorSpec([1, 9], tf.float32)], verbose=False)
    return path / "m"


def two_outputs(path):
    x = keras.layers.LSTM(5)(keras.layers.Embedding(V, 8)(ids := keras.layers.Input([9])))
    return save(keras.Model(ids, [keras.layers.Dense(V)(x), keras.layers.Dense(V)(x)]), path / "m.keras")


def open_length(path):
    return save(lesson(keras, None), path / "m.keras")


def of_sigmoids(path):
    model = lesson(keras)
    model.layers[-1].activation = keras.activations.sigmoid
    return save(model, path / "m.keras")


def no_signature(path):
    tf.saved_model.save(tf.Module(), str(path / "m"))
    return path / "m"


def of_strings(path):
    module = tf.Module()
    module.f = tf.function(lambda text: {"text": text}, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(path / "m"), signatures=module.f)
    return path / "m"


def without_a_function(path):
    file = of_strings(path) / "saved_model.pb"
    damaged = SavedModel.FromString(file.read_bytes())
    damaged.meta_graphs[0].graph_def.ClearField("library")
    file.write_bytes(damaged.SerializeToString())
    return file.parent


REFUSED = {
    "missing": (lambda path: path / "none.keras", "none.keras: No such file or directory"),
    "an empty folder": (lambda path: path, "not a SavedModel: saved_model.pb is missing"),
    "something else": (lambda path: written(path / "m.keras", b"hello"), "neither a .keras file, nor an .h5 file"),
    "an empty file": (lambda path: written(path / "m.h5", b""), "neither a .keras file, nor an .h5 file"),
    "half a file": (lambda path: written(path / "m.keras", b"PK\3\4half"), "not a .keras file, or a damaged one"),
    "a damaged file": (broken_h5, "Keras cannot read it|cannot read it"),
    "weights alone": (weights_alone, "only weights, without the model"),
    "Keras 2's own file": (keras_2_zip, "written by Keras 2.15.0.*save the model as .h5"),
    "Python code": (with_lambda, "a Lambda layer has Python code, which is not run"),
    "no token ids": (no_text, r"must be token ids \(batch, tokens\).*got \(None, 9, 3\)"),
    "two outputs": (two_outputs, "one input and one output are needed, got 1 and 2"),
    "no number": (not_finite, "NaN or infinite"),
    "of one text": (of_one_text, "its batch size is fixed at 1"),
    "no length": (open_length, r"must be a sliding-window model.*\(--context-length\)"),
    "of sigmoids": (of_sigmoids, "neither probabilities nor logits"),
    "no signature": (no_signature, "it has no signature serving_default"),
    "without a function": (without_a_function, "TensorFlow cannot read it: "),
    "of strings": (of_strings, r"'text' must be token ids \(batch, tokens\), got string"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unsupported_model_is_refused_in_one_line(case, tmp_path):
    make, message = REFUSED[case]
    with pytest.raises(UnsupportedModel, match=message) as refused:
        read_imported(make(tmp_path), None)
    assert ("--context-length" in str(refused.value)) == (case == "no length")
    assert "\n" not in str(refused.value)


def test_keras_errors_for_too_short_a_window_become_one_line(tmp_path):
    with pytest.raises(UnsupportedModel, match=r"m.keras: it cannot be run: .*egative") as refused:
        read_imported(too_short(tmp_path), 3)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_custom_layer_is_refused_with_its_name(suffix, tmp_path):
    path = custom(tmp_path, suffix)
    keras.saving.get_custom_objects().clear()
    with pytest.raises(UnsupportedModel, match=r"layer class '(theirs>)?Own' is not one of Keras's"):
        load_keras(path)
