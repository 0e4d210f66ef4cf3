"""The rules of `--enable_batching`, over gRPC."""

import re
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from model_server.batching import Batching, read_batching
from model_server.errors import ConfigError
from tests.unit.model_server.model_folder import Models
from tests.unit.model_server.serving_client import Client

Status = grpc.StatusCode
Refusal = Callable[[Callable[[], object]], tuple[Status, str]]
SIZES = "max_batch_size { value: 6 } allowed_batch_sizes: 2 allowed_batch_sizes: 4 allowed_batch_sizes: 6"

OTHER_ROWS = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
)


@pytest.fixture
def parameters(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file of batching parameters."""

    def write(text: str) -> Path:
        path = tmp_path / "batching.config"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def client(models: Models, serve: Callable[..., Client], parameters: Callable[[str], Path]) -> Client:
    """Serve `tiny` with batching and the allowed batch sizes 2, 4 and 6."""
    models.publish(3, 2.0, echoes=True)
    return serve(enable_batching=True, batching_parameters_file=parameters(SIZES))


@pytest.mark.parametrize("num_rows", [1, 2, 3, 6])
def test_a_response_has_the_batch_size_of_its_request(client: Client, num_rows: int):
    """Padding up to the next allowed batch size is removed from the outputs."""
    x = np.arange(3 * num_rows, dtype=np.float32).reshape(num_rows, 3)
    outputs = client.predict(inputs={"x": x}).outputs
    assert [dim.size for dim in outputs["y"].tensor_shape.dim] == [num_rows, 3]
    np.testing.assert_array_equal(outputs["y"].float_val, 2.0 * x.ravel())
    np.testing.assert_array_equal(outputs["total"].float_val, 2.0 * x.sum(axis=1))


def test_padding_repeats_the_first_input_up_to_an_allowed_batch_size():
    """Zeros may be an invalid input."""
    given = []

    def function(x: np.ndarray) -> dict[str, np.ndarray]:
        given.append(x.tolist())
        return {"y": x}

    outputs = Batching(6, (2, 4, 6)).wrap(function)(x=np.array([[7], [8], [9]]))
    assert given == [[[7], [8], [9], [7]]]
    assert outputs["y"].tolist() == [[7], [8], [9]]


def test_a_batch_of_strings_is_padded(client: Client):
    """Inputs of every dtype are."""
    output = client.predict(signature="echo_string", inputs={"x": [b"a", b"b", b""]}).outputs["x"]
    assert list(output.string_val) == [b"a", b"b", b""]


@pytest.mark.parametrize(
    ("signature", "inputs", "code", "text"),
    [
        (
            "step",
            {"token_id": np.zeros(3, np.int32), "state": np.zeros((2, 4), np.float32)},
            Status.INVALID_ARGUMENT,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        (
            "echo_float32",
            {"x": np.array(1, np.float32)},
            Status.INVALID_ARGUMENT,
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            "",
            {"x": np.zeros((7, 3), np.float32)},
            Status.INVALID_ARGUMENT,
            "Task size 7 is larger than maximum input batch size 6",
        ),
        (
            "square",
            {"x": np.arange(4, dtype=np.int32)},
            Status.FAILED_PRECONDITION,
            OTHER_ROWS,
        ),
        (
            "give",
            {"values": np.zeros(2, np.float32)},
            Status.FAILED_PRECONDITION,
            "Batched output tensor has 0 dimensions",
        ),
    ],
    ids=["unequal rows", "scalar input", "too many rows", "other rows out", "scalar output"],
)
def test_a_call_that_cannot_be_batched_is_refused(
    client: Client, refusal: Refusal, signature: str, inputs: dict[str, object], code: Status, text: str
):
    """Every signature is wrapped; statuses and messages are TensorFlow Serving's."""
    assert refusal(lambda: client.predict(signature=signature, inputs=inputs)) == (code, text)


def test_an_empty_batch_has_empty_outputs(client: Client):
    """It has no input that padding could repeat."""
    assert list(client.predict(inputs={"x": np.zeros((0, 3), np.float32)}).outputs["y"].float_val) == []


def test_without_enable_batching_no_rule_is_enforced(models: Models, serve: Callable[..., Client]):
    """An output may have another batch size than its input."""
    models.publish(3)
    output = serve().predict(signature="square", inputs={"x": np.arange(4, dtype=np.int32)}).outputs["y"]
    assert list(output.int_val) == [0, 1, 2, 3]


def test_the_batching_rules_apply_to_warm_up_requests(models: Models, serve: Callable[..., Client]):
    """As in TensorFlow Serving, where they pass through the same session."""
    models.publish(3, warmup=[Client.request("", {"x": np.arange(4, dtype=np.int32)}, signature="square")])
    [status] = serve(enable_batching=True).statuses()
    assert status.status.error_message.endswith("dimension sizes of the input tensors")


def test_every_batching_parameter_is_optional(parameters: Callable[[str], Path]):
    """The defaults are TensorFlow Serving's, as they are without a file."""
    assert read_batching(parameters("# nothing\n")) == read_batching(None) == Batching(max_batch_size=1000)


def test_all_supported_batching_parameters_are_accepted(parameters: Callable[[str], Path]):
    """Those that concern the merging of requests have no effect."""
    others = (
        "batch_timeout_micros { value: 0 } max_enqueued_batches { value: 100 } num_batch_threads { value: 2 } "
        'thread_pool_name { value: "p" } pad_variable_length_inputs: true '
    )
    assert read_batching(parameters(others + SIZES)) == Batching(6, (2, 4, 6))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_batch_size: 3", "1:17"),
        ("enable_large_batch_splitting { value: true }", "enable_large_batch_splitting"),
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, got 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0, got -1"),
        ("max_enqueued_batches { value: 0 }", "max_enqueued_batches must be at least 1, got 0"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1, got 0"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "last entry was 4; expected 8"),
        ("allowed_batch_sizes: 4", "last entry was 4; expected 1000"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [8, 4]", "must be positive and ascend, got [8, 4]"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 4]", "must be positive and ascend, got [4, 4]"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [0, 4]", "must be positive and ascend, got [0, 4]"),
    ],
)
def test_an_invalid_parameters_file_is_an_error_that_names_its_fault(
    parameters: Callable[[str], Path], text: str, told: str
):
    """In one line, with the file's name."""
    path = parameters(text)
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        read_batching(path)
    assert str(caught.value).startswith(f"{path}: invalid batching parameters (")
    assert "\n" not in str(caught.value)


def test_a_missing_parameters_file_is_an_error(tmp_path: Path):
    """It names the file and the reason."""
    with pytest.raises(ConfigError, match=r"absent: cannot be read \(No such file or directory\)"):
        read_batching(tmp_path / "absent")
