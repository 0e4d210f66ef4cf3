"""A SavedModel with operations that do more than compute is refused before any of them runs."""

import keras
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.trackable.resource import CapturableResource

from export.errors import UnsupportedModel
from export.graphs.operations import require_harmless
from export.imported.model import read_imported

V = 11
IDS = tf.TensorSpec([None, 4], tf.int32)


def logits(ids):
    return tf.one_hot(ids[:, -1], V)


def save(folder, function, **parts):
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[IDS])
    for name, part in parts.items():
        setattr(module, name, part)
    tf.saved_model.save(module, str(folder), signatures=module.serve)


def write(file):
    return tf.io.write_file(str(file), "written")


def directly(folder, file):
    def serve(ids):
        write(file)
        return logits(ids)

    save(folder, serve)


def in_a_nested_function(folder, file):
    @tf.function
    def inner(ids):
        write(file)
        return logits(ids)

    def outer(ids):
        return inner(ids) + 0.0

    save(folder, tf.function(outer))


def in_a_loop(folder, file):
    def body(i):
        write(file)
        return i + 1

    def serve(ids):
        tf.while_loop(lambda i: i < 1, body, [tf.constant(0)])
        return logits(ids)

    save(folder, serve)


def in_a_branch(folder, file):
    def serve(ids):
        return tf.cond(tf.reduce_sum(ids) < 0, lambda: (write(file), logits(ids))[1], lambda: logits(ids))

    save(folder, serve)


class Table(CapturableResource):
    """A resource whose initializer runs whenever the model is loaded."""

    def __init__(self, file):
        super().__init__()
        self._file = file

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name="theirs")

    def _initialize(self):
        write(self._file)


def at_the_load(folder, file):
    table = Table(file)
    assert table.resource_handle is not None
    save(folder, logits, table=table)
    file.unlink(missing_ok=True)


def in_a_function_that_nobody_calls(folder, file):
    def unused(ids):
        write(file)
        return ids

    save(folder, logits, unused=tf.function(unused, input_signature=[IDS]))


def by_saving_tensors(folder, file):
    def serve(ids):
        tf.raw_ops.SaveV2(prefix=str(file), tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)])
        return logits(ids)

    save(folder, serve)


def by_python(folder, _):
    def serve(ids):
        (given,) = tf.py_function(lambda x: [x], [ids], [tf.int32])
        return logits(tf.ensure_shape(given, [None, 4]))

    save(folder, serve)


def by_printing(folder, file):
    def serve(ids):
        tf.print("written", output_stream=f"file://{file}")
        return logits(ids)

    save(folder, serve)


CASES = {
    case.__name__: (case, operation)
    for case, operation in (
        (directly, "WriteFile"),
        (in_a_nested_function, "WriteFile"),
        (in_a_loop, "WriteFile"),
        (in_a_branch, "WriteFile"),
        (at_the_load, "WriteFile"),
        (in_a_function_that_nobody_calls, "WriteFile"),
        (by_saving_tensors, "SaveV2"),
        (by_python, "EagerPyFunc"),
        (by_printing, "PrintV2"),
    )
}


@pytest.mark.parametrize("case", CASES)
def test_an_operation_with_side_effects_is_refused_before_loading(case, tmp_path, monkeypatch):
    """The message names the operation and where it is; `tf.saved_model.load` is not called."""
    make, operation = CASES[case]
    folder, file = tmp_path / "model", tmp_path / "written"
    make(folder, file)

    def load(*_):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(tf.saved_model, "load", load)
    with pytest.raises(
        UnsupportedModel, match=rf"{folder}: a SavedModel is a program.* {operation} \(operation"
    ) as told:
        read_imported(folder, None)
    assert "\n" not in str(told.value)
    assert not file.exists()


def test_a_signature_that_reaches_the_saver_is_refused(tmp_path):
    """Every SavedModel has operations that save its variables, for the saver alone."""
    save(tmp_path, logits, weight=tf.Variable(1.0))
    require_harmless(tmp_path)
    path = tmp_path / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    graph.signature_def["serving_default"].outputs["more"].name = graph.saver_def.save_tensor_name
    path.write_bytes(saved.SerializeToString())
    with pytest.raises(UnsupportedModel, match=r"(SaveV2|MergeV2Checkpoints|ShardedFilename) \(operation"):
        require_harmless(tmp_path)


def test_a_savedmodel_with_assets_is_refused(tmp_path):
    """The path of an asset may lead to any file of the machine, which would be published."""
    (tmp_path / "words.txt").write_text("a\nb\n")
    save(tmp_path / "model", logits, words=tf.saved_model.Asset(str(tmp_path / "words.txt")))
    with pytest.raises(UnsupportedModel, match=r"it needs the file 'words.txt' beside its weights"):
        require_harmless(tmp_path / "model")


def test_common_keras_layers_are_allowed(tmp_path):
    """The model has recurrence, attention, convolution, normalization, dropout and masks."""
    layers = keras.layers
    x = layers.Embedding(V, 8, mask_zero=True)(ids := layers.Input([9]))
    x = layers.Bidirectional(layers.LSTM(5, return_sequences=True, dropout=0.1))(x)
    x = layers.GRU(6, return_sequences=True, recurrent_dropout=0.1)(x) + layers.Conv1D(6, 3, padding="same")(x)
    x = layers.BatchNormalization()(layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(x, x)))
    model = keras.Model(ids, layers.Dense(V, activation="softmax")(layers.GlobalMaxPooling1D()(x)))
    model.export(str(tmp_path), verbose=False)
    require_harmless(tmp_path)
