"""Predict and GetModelMetadata, over gRPC."""

from collections.abc import Callable, Mapping
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client

Status = grpc.StatusCode
X = np.array([[1, 2, 3]], np.float32)
STEP = {"token_id": np.arange(2, dtype=np.int32), "state": np.zeros((2, 4), np.float32)}


Refusal = Callable[[Callable[[], object]], tuple[Status, str]]


@pytest.fixture
def client(models: Models, serve: Callable[..., Client]) -> Client:
    """Serve `tiny` version 3, with weight 2."""
    models.publish(3, 2.0, echoes=True)
    return serve()


def test_a_predict_response_has_the_model_spec_and_typed_fields(client: Client):
    """The request has only a model name; the response adds the version and the signature that computed it."""
    response = client.predict()
    assert response.model_spec.name == "tiny"
    assert response.model_spec.version.value == 3
    assert response.model_spec.signature_name == "serving_default"
    assert response.outputs["y"].dtype == types_pb2.DT_FLOAT
    assert [dim.size for dim in response.outputs["y"].tensor_shape.dim] == [1, 3]
    assert list(response.outputs["y"].float_val) == [2.0, 4.0, 6.0]
    assert response.outputs["y"].tensor_content == b""
    assert list(response.outputs["total"].float_val) == [12.0]


def test_a_named_signature_keeps_the_dtypes_of_its_inputs(client: Client):
    """An int32 and a float32 input of one call return as int32 and float32."""
    response = client.predict(signature="step", inputs=STEP)
    assert response.model_spec.signature_name == "step"
    assert list(response.outputs["token_id"].int_val) == [1, 2]
    assert list(response.outputs["state"].float_val) == [2.0] * 8


def test_an_input_may_be_tensor_content_or_a_typed_field(client: Client):
    """Clients with TensorFlow send `tensor_content`, clients without it a typed field."""
    content = TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=X.tobytes())
    field = TensorProto(dtype=types_pb2.DT_FLOAT, float_val=X.ravel())
    repeated = TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[5.0])
    for proto, expected in ((content, [2.0, 4.0, 6.0]), (field, [2.0, 4.0, 6.0]), (repeated, [10.0] * 3)):
        proto.tensor_shape.CopyFrom(tf.TensorShape([1, 3]).as_proto())
        assert list(client.predict(inputs={"x": proto}).outputs["y"].float_val) == expected


# ruff: disable[SIM905] - one line
@pytest.mark.parametrize(
    "dtype",
    "float32 float64 float16 bfloat16 complex64 bool int64 int32 int16 int8 uint64 uint32 uint16 uint8".split(),
)
# ruff: enable[SIM905]
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_every_dtype_passes_through_unchanged(client: Client, dtype: str, shape: tuple[int, ...]):
    """As a scalar and as a matrix."""
    array = np.arange(np.prod(shape)).reshape(shape).astype(tf.as_dtype(dtype).as_numpy_dtype)
    output = client.predict(signature=f"echo_{dtype}", inputs={"x": array}).outputs["x"]
    assert output.dtype == tf.as_dtype(dtype).as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(output), array)


def test_strings_pass_through_as_bytes(client: Client):
    """Including NUL bytes, invalid UTF-8 and the empty string."""
    output = client.predict(signature="echo_string", inputs={"x": [b"a\x00b", b"\xff", b""]}).outputs["x"]
    assert list(output.string_val) == [b"a\x00b", b"\xff", b""]


@pytest.mark.parametrize(("output_filter", "names"), [([], {"y", "total"}), (["total"], {"total"})])
def test_output_filter_selects_the_outputs(client: Client, output_filter: list[str], names: set[str]):
    """Without one, every output is sent."""
    assert set(client.predict(output_filter=output_filter).outputs) == names


@pytest.mark.parametrize(
    ("output_filter", "text"),
    [
        (["z"], "output tensor alias not found in signature: z Outputs expected to be in the set {total,y}."),
        (["y", "y"], "duplicate output tensor alias: y"),
    ],
)
def test_an_unknown_or_duplicate_output_filter_is_invalid(
    client: Client, refusal: Refusal, output_filter: list[str], text: str
):
    """The messages are TensorFlow Serving's."""
    assert refusal(lambda: client.predict(output_filter=output_filter)) == (Status.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, ["0!=2", "Missing but required: {state,token_id}"]),
        ({"token_id": STEP["token_id"]}, ["Sent extra: {}", "Missing but required: {state}"]),
        (STEP | {"more": X}, ["3!=2", "Sent extra: {more}", "Missing but required: {}"]),
        ({"token_id": STEP["token_id"], "stat": X}, ["Sent extra: {stat}", "Missing but required: {state}"]),
        (STEP | {"state": np.zeros((2, 4))}, ["'state'", "to be float but double is provided"]),
        (STEP | {"token_id": np.zeros(2, np.int64)}, ["'token_id'", "to be int32 but int64 is provided"]),
        (STEP | {"state": np.zeros((2, 5), np.float32)}, ["'state'", "[-1, 4]", "[2, 5]"]),
        (STEP | {"state": np.zeros(4, np.float32)}, ["'state'", "[-1, 4]", "[4]"]),
        (STEP | {"token_id": np.zeros((2, 1), np.int32)}, ["'token_id'", "[-1]", "[2, 1]"]),
        (STEP | {"token_id": TensorProto(dtype=999)}, ["'token_id'", "to be int32 but 999 is provided"]),
        (
            STEP | {"token_id": TensorProto(dtype=types_pb2.DT_INT32, tensor_content=b"abc")},
            ["'token_id'", "got []"],
        ),
    ],
    ids=[
        "none",
        "missing",
        "extra",
        "misnamed",
        "float64",
        "int64",
        "width",
        "rank too low",
        "rank too high",
        "unknown dtype",
        "scalar",
    ],
)
def test_an_invalid_input_is_named_in_the_error(
    client: Client, refusal: Refusal, inputs: Mapping[str, object], told: list[str]
):
    """Names, dtypes and shapes are validated before TensorFlow is called."""
    code, text = refusal(lambda: client.predict(signature="step", inputs=inputs))
    assert code is Status.INVALID_ARGUMENT
    assert [part for part in told if part not in text] == []


def test_tensor_content_of_the_wrong_length_is_invalid(client: Client, refusal: Refusal):
    """The message names the input as TensorFlow Serving's does."""
    proto = TensorProto(dtype=types_pb2.DT_FLOAT, tensor_content=b"abcdefg")
    proto.tensor_shape.CopyFrom(tf.TensorShape([1, 3]).as_proto())
    code, text = refusal(lambda: client.predict(inputs={"x": proto}))
    assert code is Status.INVALID_ARGUMENT
    assert text.startswith("tensor parsing error: x")


def test_an_error_in_the_graph_is_invalid_with_tensorflows_message(client: Client, refusal: Refusal):
    """It names the node, and has no notes on Python stacks."""
    code, text = refusal(lambda: client.predict(signature="square", inputs={"x": np.arange(3, dtype=np.int32)}))
    assert code is Status.INVALID_ARGUMENT
    assert text.startswith("Input to reshape is a tensor with 3 values")
    assert text.endswith("{{node Reshape}}]]")


def test_other_errors_in_the_graph_keep_their_status(client: Client, refusal: Refusal, tmp_path: Path):
    """A missing file is NOT_FOUND, and the next call succeeds."""
    absent, present = tmp_path / "absent", tmp_path / "present"
    present.write_text("here")
    code, text = refusal(lambda: client.predict(signature="read", inputs={"path": np.array(str(absent))}))
    assert (code, str(absent) in text) == (Status.NOT_FOUND, True)
    answer = client.predict(signature="read", inputs={"path": np.array(str(present))})
    assert list(answer.outputs["content"].string_val) == [b"here"]


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"name": "b"}, Status.NOT_FOUND, "Servable not found for request: Latest(b)"),
        ({"version": 9}, Status.NOT_FOUND, "Servable not found for request: Specific(tiny, 9)"),
        ({"label": "x"}, Status.INVALID_ARGUMENT, "Unrecognized servable version label: x"),
        ({"signature": "x"}, Status.FAILED_PRECONDITION, 'Serving signature key "x" not found.'),
        (
            {"signature": "__saved_model_init_op"},
            Status.FAILED_PRECONDITION,
            'Serving signature key "__saved_model_init_op" not found.',
        ),
        ({"name": ""}, Status.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    ],
)
def test_an_unknown_servable_has_tensorflow_servings_status_and_message(
    client: Client, refusal: Refusal, fields: dict[str, object], code: Status, text: str
):
    """Clients distinguish a missing model, a missing signature and an unknown label by them."""
    assert refusal(lambda: client.predict(**fields)) == (code, text)


def test_a_request_without_model_spec_is_invalid(client: Client, refusal: Refusal):
    """In Predict, GetModelMetadata and GetModelStatus alike."""
    expected = Status.INVALID_ARGUMENT, "Missing ModelSpec"
    assert refusal(lambda: client.prediction.Predict(PredictRequest(), timeout=9)) == expected
    assert refusal(lambda: client.prediction.GetModelMetadata(GetModelMetadataRequest(), timeout=9)) == expected
    assert refusal(lambda: client.model.GetModelStatus(GetModelStatusRequest(), timeout=9)) == expected


def test_an_unsupported_method_is_unimplemented(client: Client, refusal: Refusal):
    """Not an error that could be mistaken for the model's."""
    code, _ = refusal(lambda: client.prediction.Classify(ClassificationRequest(), timeout=9))
    assert code is Status.UNIMPLEMENTED


def test_messages_have_no_size_limit(client: Client):
    """Requests and responses above gRPC's default of 4 MB pass."""
    x = np.zeros((500_000, 3), np.float32)
    response = client.predict(inputs={"x": x})
    assert len(response.outputs["y"].float_val) == x.size
    assert response.ByteSize() > 4 * 2**20


def test_metadata_has_dtypes_shapes_and_tensor_names_of_each_signature(client: Client):
    """They are those of the SavedModel."""
    response = client.metadata()
    assert (response.model_spec.name, response.model_spec.version.value) == ("tiny", 3)
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    step = signatures.signature_def["step"]
    assert set(step.inputs) == {"token_id", "state"}
    assert step.inputs["state"].dtype == types_pb2.DT_FLOAT
    assert [dim.size for dim in step.inputs["state"].tensor_shape.dim] == [-1, 4]
    assert step.inputs["state"].name == "step_state:0"
    assert step.outputs["token_id"].dtype == types_pb2.DT_INT32
    assert step.method_name == "tensorflow/serving/predict"
    assert {"serving_default", "__saved_model_init_op"} <= set(signatures.signature_def)


@pytest.mark.parametrize(
    ("request_fields", "code", "text"),
    [
        (
            {"fields": []},
            Status.INVALID_ARGUMENT,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        ({"fields": ["weights"]}, Status.INVALID_ARGUMENT, "Metadata field weights is not supported"),
        ({"version": 9}, Status.NOT_FOUND, "Servable not found for request: Specific(tiny, 9)"),
    ],
)
def test_unknown_metadata_is_refused(
    client: Client, refusal: Refusal, request_fields: dict[str, object], code: Status, text: str
):
    """Only `signature_def` of a served version is available."""
    assert refusal(lambda: client.metadata(**request_fields)) == (code, text)
