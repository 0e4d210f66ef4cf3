"""A loaded SavedModel: Predict on it, its warm-up requests, and what is wrong with one that cannot be loaded."""

import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import Message
from grpc import StatusCode
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from model_server import saved_model
from model_server import servable as servable_module
from model_server.errors import ModelServerError
from model_server.servable import WARMUP_FILE, Servable, load
from tests.serving.client import request
from tests.unit.model_server.tiny_model import ECHOED, write_warmup

X = {"x": np.array([[1, 2, 3]], np.float32)}
STEP = {"token_id": np.arange(2, dtype=np.int32), "state": np.zeros((2, 4), np.float32)}


@pytest.fixture
def path(models):
    """A version of `tiny`, with weight 2, that the test may change."""
    return models.publish(3)


@pytest.fixture
def tiny(models):
    return Servable("tiny", 3, models.saved_model())


def predict(servable, name, inputs, **fields):
    """Call Predict with arrays of any dtype."""
    protos = {
        key: value if isinstance(value, Message) else tf.make_tensor_proto(value) for key, value in inputs.items()
    }
    return servable.predict(request("tiny", name, protos, **fields)).outputs


def refused(attempt):
    with pytest.raises(ModelServerError) as caught:
        attempt()
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize("dtype", ECHOED, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_every_dtype_passes_through_unchanged(tiny, dtype, shape):
    values = np.arange(np.prod(shape)).reshape(shape)
    array = values.astype("S").astype(object) if dtype == tf.string else values.astype(dtype.as_numpy_dtype)
    output = predict(tiny, f"echo_{dtype.name}", {"x": array})["x"]
    assert output.dtype == dtype.as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(output), array)


@pytest.mark.parametrize(
    ("output_filter", "text"),
    [
        (["z"], "output tensor alias not found in signature: z Outputs expected to be in the set {total,y}."),
        (["y", "y"], "duplicate output tensor alias: y"),
    ],
)
def test_an_unknown_or_duplicate_output_filter_is_invalid(tiny, output_filter, text):
    """The messages are TensorFlow Serving's."""
    refusal = refused(lambda: predict(tiny, "", X, output_filter=output_filter))
    assert refusal == (StatusCode.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, ["0!=2", "Missing but required: {state,token_id}"]),
        (STEP | {"more": X["x"]}, ["3!=2", "Sent extra: {more}", "Missing but required: {}"]),
        (STEP | {"state": np.zeros((2, 4))}, ["'state'", "Expects arg[0] to be float but double is provided"]),
        (STEP | {"token_id": TensorProto(dtype=999)}, ["'token_id'", "Expects arg[1] to be int32 but 999 is provided"]),
        (STEP | {"state": np.zeros((2, 5), np.float32)}, ["'state'", "[-1, 4]", "[2, 5]"]),
        (STEP | {"state": np.zeros(4, np.float32)}, ["'state'", "[-1, 4]", "[4]"]),
        (STEP | {"token_id": TensorProto(dtype=types_pb2.DT_INT32, tensor_content=b"abc")}, ["'token_id'", "got []"]),
    ],
    ids=["none", "extra", "float64", "unknown dtype", "width", "rank", "scalar"],
)
def test_an_invalid_input_is_named_in_the_error(tiny, inputs, told):
    code, text = refused(lambda: predict(tiny, "step", inputs))
    assert code is StatusCode.INVALID_ARGUMENT
    assert [part for part in told if part not in text] == []


def test_an_error_in_the_graph_has_tensorflows_status_and_message(tiny, tmp_path):
    code, text = refused(lambda: predict(tiny, "square", {"x": np.arange(3, dtype=np.int32)}))
    assert code is StatusCode.INVALID_ARGUMENT
    assert text.startswith("Input to reshape is a tensor with 3 values")
    assert text.endswith("{{node Reshape}}]]")
    file = tmp_path / "content"
    code, text = refused(lambda: predict(tiny, "read", {"path": str(file)}))
    assert (code, str(file) in text) == (StatusCode.NOT_FOUND, True)
    file.write_text("here")
    assert list(predict(tiny, "read", {"path": str(file)})["content"].string_val) == [b"here"]


def test_a_signature_that_is_not_for_requests_is_not_found(tiny):
    """The initialization op is a signature, too; the metadata list it."""
    assert "__saved_model_init_op" in tiny.definitions
    text = 'Serving signature key "__saved_model_init_op" not found.'
    refusal = refused(lambda: predict(tiny, "__saved_model_init_op", {}))
    assert refusal == (StatusCode.FAILED_PRECONDITION, text)


def warm_up(path, *calls):
    requests = [request("tiny", *call) for call in calls]
    write_warmup(path, [PredictionLog(predict_log=PredictLog(request=each)) for each in requests])


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (("square", {"x": np.arange(3, dtype=np.int32)}), StatusCode.INVALID_ARGUMENT),
        (("absent", {}), StatusCode.FAILED_PRECONDITION),
    ],
    ids=["fails in the graph", "no such signature"],
)
def test_a_failed_warm_up_request_fails_the_load_with_its_status(path, call, code):
    warm_up(path, ("", X), call)
    found, text = refused(lambda: load("tiny", 3, path))
    assert found is code
    assert "warm-up request 1 failed" in text


def test_more_than_a_thousand_warm_up_requests_fail_the_load(path, monkeypatch):
    monkeypatch.setattr(Servable, "predict", lambda self, request: None)
    warm_up(path, *[("", X)] * 1000)
    load("tiny", 3, path)
    shutil.rmtree((path / WARMUP_FILE).parent)
    warm_up(path, *[("", X)] * 1001)
    code, text = refused(lambda: load("tiny", 3, path))
    assert code is StatusCode.INVALID_ARGUMENT
    assert "exceeds the maximum (1000)" in text


def test_a_damaged_warm_up_file_fails_the_load_and_an_empty_one_does_not(path):
    file = path / WARMUP_FILE
    file.parent.mkdir()
    file.write_bytes(b"")
    load("tiny", 3, path)
    file.write_bytes(b"not a TFRecord at all, but long enough")
    code, text = refused(lambda: load("tiny", 3, path))
    assert code is StatusCode.DATA_LOSS
    assert "TFRecord format" in text


def test_warm_up_records_of_unsupported_methods_are_skipped(path):
    """A recorded Classify request cannot run here, and does not fail the load."""
    log = PredictionLog()
    log.classify_log.request.model_spec.name = "tiny"
    write_warmup(path, [log])
    load("tiny", 3, path)


def test_outputs_are_bit_exact_to_those_of_saved_model_load(models):
    """TensorFlow's other way to load a SavedModel, with all that Python has recorded in it."""
    path, x = models.saved_model(), X["x"] / 7
    expected = tf.saved_model.load(str(path)).signatures["serving_default"](x=tf.constant(x))
    outputs = Servable("tiny", 1, path).signature("")({"x": x})
    assert {name: array.tobytes() for name, array in outputs.items()} == {
        name: tensor.numpy().tobytes() for name, tensor in expected.items()
    }


def test_two_models_in_one_process_have_variables_of_their_own(models):
    two, three = (Servable("tiny", 1, models.saved_model(weight)).signature("") for weight in (2.0, 3.0))
    assert (two(X)["total"].tolist(), three(X)["total"].tolist()) == ([12.0], [18.0])


def test_concurrent_first_calls_optimize_the_graph_once(tiny, monkeypatch):
    """Each would take as long as the first."""
    made = []
    make = servable_module.make_callable
    monkeypatch.setattr(servable_module, "make_callable", lambda *arguments: made.append(arguments) or make(*arguments))
    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(lambda _: tiny.signature("")(X)["total"].item(), range(8)))
    assert (totals, len(made)) == ([12.0] * 8, 1)


def test_a_session_lives_as_long_as_a_signature_of_it(models):
    gc.disable()
    try:
        servable = Servable("tiny", 1, models.saved_model())
        function = servable.signature("")
        session = weakref.ref(function._session)
        del servable
        assert function(X)["total"].item() == 12.0
        del function
        assert session() is None
    finally:
        gc.enable()


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    content = file.read_bytes()
    file.write_bytes(bytes(255 - byte for byte in content[:4]) + content[4:])


def edit(change):
    """Return a function that changes the graph in a file."""

    def damage(file):
        message = SavedModel.FromString(file.read_bytes())
        change(message.meta_graphs[0])
        file.write_bytes(message.SerializeToString())

    return damage


def rename_operation(graph):
    """Use an operation that TensorFlow does not have, in each function, as a session ignores those that none calls."""
    for function in saved_model.functions_of(graph.graph_def):
        function.node_def[0].op = "Nonsense"


DATA, INDEX, GRAPH = "variables/variables.data-00000-of-00001", "variables/variables.index", "saved_model.pb"


@pytest.mark.parametrize(
    ("file", "damage", "code", "text"),
    [
        (INDEX, Path.unlink, StatusCode.NOT_FOUND, "variables/variables"),
        (DATA, Path.unlink, StatusCode.NOT_FOUND, DATA),
        (DATA, flip, StatusCode.DATA_LOSS, "Checksum does not match"),
        (INDEX, halve, StatusCode.DATA_LOSS, "not an sstable"),
        (GRAPH, halve, StatusCode.DATA_LOSS, "Can't parse the SavedModel in"),
        (GRAPH, lambda file: file.write_bytes(b""), StatusCode.NOT_FOUND, "supplied tags: { serve }"),
        (GRAPH, edit(lambda g: g.meta_info_def.tags.append("gpu")), StatusCode.NOT_FOUND, "supplied tags: { serve }"),
        (GRAPH, edit(rename_operation), StatusCode.NOT_FOUND, "Op type not registered 'Nonsense'"),
        (GRAPH, edit(lambda g: g.graph_def.node[0].input.append("x")), StatusCode.INVALID_ARGUMENT, "input node 'x'"),
    ],
)
def test_a_damaged_saved_model_is_an_error_with_tensorflows_status(path, file, damage, code, text):
    damage(path / file)
    found, message = refused(lambda: saved_model.load(path))
    assert found is code
    assert text in message


def test_the_shapes_that_python_has_recorded_are_dropped(models):
    """TensorFlow writes them to the nodes of functions."""
    graph_def = saved_model._read_meta_graph(models.saved_model()).graph_def
    assert "_output_shapes" in str(saved_model.functions_of(graph_def))
    saved_model._drop_shapes(graph_def)
    assert "_output_shapes" not in str(saved_model.functions_of(graph_def))
