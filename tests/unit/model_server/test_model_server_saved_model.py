"""SavedModels of every origin in a session, and what is wrong with one that cannot be loaded."""

import gc
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from model_server import saved_model as module
from model_server.errors import TensorFlowFailed
from model_server.saved_model import LoadedModel

Status = grpc.StatusCode
X = np.array([[1, 2, 3]], np.float32)
SERVING_DEFAULT = "serving_default"


@pytest.fixture
def path(tmp_path: Path, saved_model: Callable[..., Path]) -> Path:
    """A copy of `tiny` that the test may damage."""
    return shutil.copytree(saved_model(2.0), tmp_path / "tiny")


def edit(path: Path, change: Callable[[SavedModel], None]) -> None:
    """Change a SavedModel's message."""
    file = path / "saved_model.pb"
    message = SavedModel.FromString(file.read_bytes())
    change(message)
    file.write_bytes(message.SerializeToString())


def test_outputs_are_bit_exact_to_those_of_saved_model_load(path: Path):
    """TensorFlow's other way to load a SavedModel, with all that Python has recorded in it."""
    expected = tf.saved_model.load(str(path)).signatures[SERVING_DEFAULT](x=tf.constant(X / 7))
    outputs = LoadedModel(path).functions[SERVING_DEFAULT](x=X / 7)
    assert {name: array.tobytes() for name, array in outputs.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in expected.items()
    }


def test_lookup_tables_are_filled_from_the_assets(tmp_path: Path):
    """Those of the SavedModel: the exporter's own file is gone."""
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("a\nb\n")
    index = tf.lookup.TextFileIndex
    initializer = tf.lookup.TextFileInitializer(
        str(vocabulary), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
    )

    class Lookup(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = tf.lookup.StaticHashTable(initializer, default_value=-1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def find(self, words: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"ids": self.table.lookup(words), "first": words[0]}

    model = Lookup()
    tf.saved_model.save(model, str(tmp_path / "lookup"), signatures=model.find)
    vocabulary.unlink()
    outputs = LoadedModel(tmp_path / "lookup").functions[SERVING_DEFAULT](words=np.array([b"b", b"c"], object))
    assert outputs["ids"].tolist() == [1, -1]
    assert (outputs["first"].shape, outputs["first"].item()) == ((), b"b")


@pytest.mark.parametrize("with_variable", [True, False], ids=["a variable", "no variables"])
def test_a_saved_model_of_tensorflow_1_is_loaded(tmp_path: Path, with_variable: bool):
    """Its graph has no functions, and its initialization op is in a collection."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [None])
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [10.0]), default_value=0.0)
        y = x + table.lookup(tf.constant(1))
        if with_variable:
            y *= v1.get_variable("factor", initializer=3.0, use_resource=False)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(session, str(tmp_path / "v1"), {"x": x}, {"y": y}, v1.tables_initializer())
    outputs = LoadedModel(tmp_path / "v1").functions[SERVING_DEFAULT](x=np.array([1, 2], np.float32))
    assert outputs["y"].tolist() == ([33.0, 36.0] if with_variable else [11.0, 12.0])


def test_two_models_in_one_process_have_variables_of_their_own(saved_model: Callable[..., Path]):
    """Although the names of their variables are equal."""
    two, three = (LoadedModel(saved_model(weight)).functions[SERVING_DEFAULT] for weight in (2.0, 3.0))
    assert two(x=X)["total"].tolist() == [12.0]
    assert three(x=X)["total"].tolist() == [18.0]


def test_only_signatures_for_requests_have_a_function(path: Path):
    """The initialization op is a signature, too."""
    model = LoadedModel(path)
    assert model.definitions.keys() - model.functions.keys() == {"__saved_model_init_op"}


def test_concurrent_first_calls_optimize_the_graph_once(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each would take as long as the first."""
    made = []
    make = module._callable
    function = LoadedModel(path).functions[SERVING_DEFAULT]
    monkeypatch.setattr(module, "_callable", lambda *arguments: made.append(arguments) or make(*arguments))
    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(lambda _: function(x=X)["total"].item(), range(8)))
    assert (totals, len(made)) == ([12.0] * 8, 1)


def test_a_session_lives_as_long_as_a_function_of_it(path: Path):
    """And no longer, without a garbage collection: its weights are the memory of a version."""
    gc.disable()
    try:
        model = LoadedModel(path)
        function = model.functions[SERVING_DEFAULT]
        session = weakref.ref(function._session)
        del model
        assert function(x=X)["total"].item() == 12.0
        del function
        assert session() is None
    finally:
        gc.enable()


def halve(file: Path) -> None:
    """Cut a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Invert the first bytes of a file."""
    content = file.read_bytes()
    file.write_bytes(bytes(255 - byte for byte in content[:4]) + content[4:])


def rename_operation(message: SavedModel) -> None:
    """Use an operation that TensorFlow does not have, in each function, as a session ignores those that none calls."""
    for function in module._functions(message.meta_graphs[0].graph_def):
        function.node_def[0].op = "Nonsense"


def add_input(message: SavedModel) -> None:
    """Refer to a missing node."""
    message.meta_graphs[0].graph_def.node[0].input.append("missing")


DATA, INDEX = "variables/variables.data-00000-of-00001", "variables/variables.index"


@pytest.mark.parametrize(
    ("damage", "code", "text"),
    [
        (lambda path: (path / INDEX).unlink(), Status.NOT_FOUND, "variables/variables"),
        (lambda path: (path / DATA).unlink(), Status.NOT_FOUND, DATA),
        (lambda path: flip(path / DATA), Status.DATA_LOSS, "Checksum does not match"),
        (lambda path: halve(path / INDEX), Status.DATA_LOSS, "not an sstable"),
        (lambda path: halve(path / "saved_model.pb"), Status.DATA_LOSS, "Can't parse the SavedModel in"),
        (lambda path: edit(path, rename_operation), Status.NOT_FOUND, "Op type not registered 'Nonsense'"),
        (lambda path: edit(path, add_input), Status.INVALID_ARGUMENT, "Unknown input node 'missing'"),
    ],
    ids=["no index", "no data", "flipped data", "half an index", "half a graph", "unknown operation", "missing node"],
)
def test_a_damaged_saved_model_is_an_error_with_tensorflows_status(
    path: Path, damage: Callable[[Path], None], code: Status, text: str
):
    """It is the status of the version."""
    damage(path)
    with pytest.raises(TensorFlowFailed) as caught:
        LoadedModel(path)
    assert caught.value.code is code
    assert text in str(caught.value)


def test_the_shapes_that_python_has_recorded_are_dropped(path: Path):
    """TensorFlow writes them to the nodes of functions."""
    graph_def = module._read_meta_graph(path).graph_def
    assert "_output_shapes" in str(module._functions(graph_def))
    module._drop_shapes(graph_def)
    assert "_output_shapes" not in str(module._functions(graph_def))


def test_a_saved_model_in_text_format_is_loaded(path: Path):
    """As TensorFlow Serving does if there is no binary file."""
    expected = LoadedModel(path).functions[SERVING_DEFAULT](x=X)["total"].item()
    binary = path / "saved_model.pb"
    (path / "saved_model.pbtxt").write_text(text_format.MessageToString(SavedModel.FromString(binary.read_bytes())))
    binary.unlink()
    assert LoadedModel(path).functions[SERVING_DEFAULT](x=X)["total"].item() == expected
