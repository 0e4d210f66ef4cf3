"""`sostenuto import` publishes an imported model, or refuses it with a one-line error."""

import re
import shutil
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras.src.legacy.preprocessing.text import Tokenizer

from contract.card import load_assets
from export.cli import program
from export.repository import publishing
from export.repository.models_config import add_to_models_config
from tests.commands import main, one_line
from tests.conftest import quick_to_load

LINES = ["The cat sat on the mat", "and the dog ran to the hill", "a cat and a dog"]


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """A directory with the tutorial's tokenizer and its model, and these."""
    made = tmp_path_factory.mktemp("lesson")
    tokenizer = Tokenizer(oov_token="<OOV>")
    tokenizer.fit_on_texts(LINES)
    (made / "tokenizer.json").write_text(tokenizer.to_json())
    layers = keras.layers
    size = len(tokenizer.word_index) + 1
    model = keras.Sequential([layers.Input([5]), layers.Embedding(size, 8), layers.Bidirectional(layers.LSTM(6))])
    model.add(layers.Dense(size, activation="softmax"))
    model.save(made / "lesson.keras")
    return made, tokenizer, model


@pytest.fixture(autouse=True)
def folder(lesson, tmp_path, monkeypatch):
    shutil.copytree(lesson[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    with quick_to_load():
        yield


def import_model(*options, model="lesson.keras", tokenizer="tokenizer.json"):
    return main(["import", model, "--tokenizer", tokenizer, "--name", "lesson", *options])


def test_a_keras_model_is_published_with_its_outputs_and_token_ids(lesson, capsys):
    """The served logits of a padded window are those of the model; the tokenizer's ids are those of Keras."""
    _, theirs, model = lesson
    assert import_model() == 0
    card, tokenizer = load_assets(Path("models/lesson/1"))
    assert (card.context, card.cell, card.unit, card.training) == (5, "lstm", "word", None)
    line = "the dog sat on a unicorn"
    assert tokenizer.encode(line) == theirs.texts_to_sequences([line])[0]
    ids = np.array([tokenizer.encode("the cat")])
    logits = tf.saved_model.load("models/lesson/1").signatures["serving_default"](token_ids=tf.constant(ids, tf.int32))
    expected = model(keras.utils.pad_sequences(ids, 5))
    np.testing.assert_allclose(tf.nn.softmax(logits["logits"][:, -1]), expected, atol=1e-5)
    out = capsys.readouterr().out
    assert "tokenizer.json: word, 13 tokens\n" in out
    assert "it is a sliding-window model of 5 tokens, padded on the left" in out
    assert "its outputs are probabilities of 13 tokens\n" in out
    assert out.endswith("published models/lesson/1\n")


def test_direction_window_and_models_dir_are_applied(capsys):
    layers = keras.layers
    model = keras.Sequential([layers.Input([None]), layers.Embedding(20, 8), layers.GRU(6), layers.Dense(20)])
    model.save("gru.keras")
    assert (
        import_model("--direction", "backward", "--models-dir", "other", "--context-length", "7", model="gru.keras")
        == 0
    )
    card, _ = load_assets(Path("other/lesson/1"))
    assert (card.direction, card.context) == ("backward", 7)
    assert "7 of its outputs have no token and are never sampled" in capsys.readouterr().out


def test_ctrl_c_does_not_interrupt_the_publication(monkeypatch, capsys):
    """A model that is listed without a version keeps a model server waiting for it."""

    def interrupted(*arguments):
        add_to_models_config(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(publishing, "add_to_models_config", interrupted)
    assert import_model() == 0
    assert "published models/lesson/1\n" in capsys.readouterr().out
    assert Path("models/lesson/1/saved_model.pb").exists()


def test_a_tokenizer_larger_than_the_model_is_refused(capsys):
    """Outputs and embedding must both be large enough. The message has both sizes; nothing is published."""
    layers = keras.layers
    keras.Sequential([layers.Input([5]), layers.Embedding(13, 4), layers.LSTM(6), layers.Dense(11)]).save("few.keras")
    keras.Sequential([layers.Input([5]), layers.Embedding(11, 4), layers.LSTM(6), layers.Dense(13)]).save("rows.keras")
    for name, message in (
        ("few.keras", "the model has 11 outputs, too few for a tokenizer of 13 tokens"),
        ("rows.keras", "the embedding has 11 ids, too few for a tokenizer of 13 tokens"),
    ):
        assert import_model(model=name) == 1
        assert message in capsys.readouterr().err
    assert not list(Path("models").glob("lesson/*"))


TEXT = "To be, or not\nto be:\nthat is the question"


@pytest.mark.parametrize("kind", ["sequential", "functional", "end to end"])
def test_a_model_with_its_vectorization_layer_needs_no_tokenizer(kind, capsys):
    layers = keras.layers
    vectorization = layers.TextVectorization(standardize="lower", split="character")
    vectorization.adapt([TEXT])
    size = vectorization.vocabulary_size()
    rest = [layers.Embedding(size, 8), layers.GRU(6, return_sequences=True), layers.Dense(size)]
    outputs = text = keras.Input([1], dtype="string")
    for layer in (vectorization, *rest):
        outputs = layer(outputs)
    model = keras.Model(text, outputs)
    if kind != "functional":
        inner = rest if kind == "sequential" else [keras.Sequential([keras.Input([None]), *rest])]
        model = keras.Sequential([text, vectorization, *inner])
    model.save("whole.keras")
    assert main(["import", "whole.keras"]) == 0
    card, tokenizer = load_assets(Path("models/whole/1"))
    assert (card.context, card.unit, len(tokenizer.tokens)) == (None, "character", size)
    ids = tf.constant([tokenizer.encode(TEXT)], tf.int32)
    logits = tf.saved_model.load("models/whole/1").signatures["serving_default"](token_ids=ids)["logits"]
    np.testing.assert_allclose(logits, model(tf.constant([[TEXT]])), atol=1e-5)
    assert f"whole.keras: character, {size} tokens, lower-cases A to Z\n" in capsys.readouterr().out
    assert main(["verify", "whole"]) == 0


def test_a_vectorization_layer_that_is_not_the_first_is_refused(capsys):
    layers, text = keras.layers, keras.Input([None], dtype="string")
    first, second = (layers.StringLookup(vocabulary=["a", "b"], name=name)(text) for name in ("first", "second"))
    keras.Model(text, layers.Dense(3)(layers.Embedding(3, 4)(first + second))).save("two.keras")
    assert main(["import", "two.keras", "--tokenizer", "tokenizer.json"]) == 1
    assert "two.keras: StringLookup 'first' must be the first layer of a model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "lesson.keras",
            "lesson.keras: it has no TextVectorization or StringLookup layer; pass the tokenizer's file (--tokenizer)",
        ),
        ("lesson.h5", "--tokenizer is missing: only a .keras file can have the tokenizer in it, got lesson.h5"),
    ],
)
def test_a_model_without_such_a_layer_needs_a_tokenizer(model, message, capsys):
    assert main(["import", model]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "none.keras"}, "none.keras: No such file or directory"),
        ({"tokenizer": "none.json"}, "none.json: No such file or directory"),
        ({"tokenizer": "lesson.keras"}, "lesson.keras: "),
    ],
    ids=str,
)
def test_a_missing_or_invalid_file_is_named_in_one_line(options, message, capsys):
    assert import_model(**options) == 1
    assert message in one_line(capsys)


@pytest.mark.parametrize("window", ["0", "-3", "many"])
def test_an_invalid_window_is_a_usage_error(window):
    outcome = CliRunner().invoke(
        program, ["import", "lesson.keras", "--tokenizer", "t.json", "--name", "lesson", "--context-length", window]
    )
    assert outcome.exit_code == 2
    assert re.search(rf"Invalid value for '--context-length': '?{window}", outcome.stderr)


def test_an_invalid_name_is_refused_before_any_file_is_read(capsys):
    assert main(["import", "none", "--tokenizer", "none", "--name", "../up"]) == 1
    assert "name must be" in capsys.readouterr().err


def save_writing_model(folder):
    """Save a SavedModel that writes a file when it is called, and return the file's path."""
    module, file = tf.Module(), folder / "written"

    def serve(ids):
        tf.io.write_file(str(file), "written")
        return tf.one_hot(ids[:, -1], 13)

    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 5], tf.int32)])
    tf.saved_model.save(module, "theirs", signatures=module.serve)
    return file


def test_a_savedmodel_that_writes_files_is_refused_and_not_run(tmp_path, capsys):
    """Importing it writes no file, and nothing is published that a model server would run."""
    file = save_writing_model(tmp_path)
    assert import_model(model="theirs") == 1
    assert "WriteFile" in capsys.readouterr().err
    assert not file.exists()
    assert not list(Path("models").glob("lesson/*"))


def test_a_keras_file_with_a_savedmodel_layer_is_refused(tmp_path, capsys):
    """`TFSMLayer` would run a SavedModel around the check of its operations."""
    file = save_writing_model(tmp_path)
    layers = keras.layers
    model = keras.Sequential([layers.Input([5], dtype="int32"), layers.TFSMLayer("theirs", call_endpoint="serve")])
    model.save("indirect.keras")
    file.unlink(missing_ok=True)
    assert import_model(model="indirect.keras") == 1
    assert re.match("error: indirect.keras: Keras cannot read it: .*TFSMLayer", capsys.readouterr().err)
    assert not file.exists()


def test_a_tokenizer_file_above_the_size_limit_is_refused(monkeypatch, capsys):
    """Parsed JSON takes many times its size in memory. The message has the limit and the size."""
    monkeypatch.setattr("export.imported.tokenizer.MAX_BYTES", 100)
    size = Path("tokenizer.json").stat().st_size
    assert import_model() == 1
    assert f"a tokenizer file must have at most 100 bytes, got {size:,}" in capsys.readouterr().err
