"""The rules of `--enable_batching`."""

import re

import numpy as np
import pytest
from grpc import StatusCode

from model_server.batching import Batching, read_batching
from model_server.errors import ConfigError, ModelServerError

BATCHING = Batching(6, (2, 4, 6))
SIZES = "max_batch_size { value: 6 } allowed_batch_sizes: 2 allowed_batch_sizes: 4 allowed_batch_sizes: 6"


@pytest.fixture
def parameters(tmp_path):
    def write(text):
        path = tmp_path / "batching.config"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("rows", "given"),
    [
        ([7], [7, 7]),
        ([7, 8], [7, 8]),
        ([7, 8, 9], [7, 8, 9, 7]),
        ([], []),
        ([b"a", b"b", b""], [b"a", b"b", b"", b"a"]),
    ],
)
def test_a_batch_is_padded_by_its_first_entry_to_an_allowed_size_and_its_outputs_are_cut(rows, given):
    """Zeros may be an invalid input. An empty batch has no entry to repeat."""
    calls = []

    def function(inputs):
        calls.append(inputs["x"].tolist())
        return {"y": inputs["x"]}

    inputs = {"x": np.array(rows, object if b"a" in rows else np.int32)}
    assert BATCHING.run(function, inputs)["y"].tolist() == rows
    assert calls == [given]


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({}, "Batching Run() must have at least one input tensor"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, "Batching Run() input tensors must have equal 0th-dimension size"),
        ({"x": np.array(1)}, "Batching Run() input tensors must have at least one dimension"),
        ({"x": np.zeros((7, 3))}, "Task size 7 is larger than maximum input batch size 6"),
    ],
    ids=["none", "unequal", "scalar", "too many"],
)
def test_inputs_that_are_no_batch_are_invalid(inputs, told):
    """The messages are TensorFlow Serving's."""
    with pytest.raises(ModelServerError, match=re.escape(told)) as caught:
        BATCHING.run(lambda _: pytest.fail("it was called"), inputs)
    assert caught.value.code is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("output", "told"),
    [
        (np.zeros(3), "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the"),
        (np.array(1), "Batched output tensor has 0 dimensions"),
    ],
    ids=["another size", "scalar"],
)
def test_an_output_without_the_batch_size_fails_the_call(output, told):
    with pytest.raises(ModelServerError, match=re.escape(told)) as caught:
        BATCHING.run(lambda _: {"y": output}, {"x": np.zeros(2)})
    assert caught.value.code is StatusCode.FAILED_PRECONDITION


def test_every_batching_parameter_is_optional(parameters):
    """The defaults are TensorFlow Serving's, as they are without a file."""
    assert read_batching(parameters("# nothing\n")) == read_batching(None) == Batching(max_batch_size=1000)


def test_all_supported_batching_parameters_are_accepted(parameters):
    others = (
        "batch_timeout_micros { value: 0 } max_enqueued_batches { value: 100 } num_batch_threads { value: 2 } "
        'thread_pool_name { value: "p" } pad_variable_length_inputs: true '
    )
    assert read_batching(parameters(others + SIZES)) == BATCHING


@pytest.mark.parametrize(
    ("text", "told"),
    [
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
def test_an_invalid_parameters_file_is_an_error_that_names_its_fault(parameters, text, told):
    path = parameters(text)
    with pytest.raises(ConfigError, match=re.escape(told)) as caught:
        read_batching(path)
    assert str(caught.value).startswith(f"{path}: invalid batching parameters (")
