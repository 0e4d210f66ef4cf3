"""Parsing of the command line."""

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from model_server.flags import Flags, parse

MODEL = "--model_base_path=/models/tiny"


def test_defaults_match_tensorflow_serving_except_host_and_threads():
    """The default host is loopback, and an op uses one thread."""
    assert parse([MODEL]) == Flags(
        host="127.0.0.1",
        port=8500,
        rest_api_port=0,
        grpc_max_threads=4 * len(os.sched_getaffinity(0)),
        ssl_config_file=None,
        model_config_file=None,
        model_config_file_poll_wait_seconds=0,
        file_system_poll_wait_seconds=1,
        model_name="default",
        model_base_path=Path("/models/tiny"),
        models_root=None,
        allow_version_labels_for_unavailable_models=False,
        max_num_load_retries=5,
        load_retry_interval_micros=60_000_000,
        tensorflow_intra_op_parallelism=1,
        tensorflow_inter_op_parallelism=0,
        enable_batching=False,
        batching_parameters_file=None,
    )


@pytest.mark.parametrize(
    ("argument", "field", "value"),
    [
        ("--port=9000", "port", 9000),
        ("--host=0.0.0.0", "host", "0.0.0.0"),
        ("--rest_api_port=0", "rest_api_port", 0),
        ("--grpc_max_threads=3", "grpc_max_threads", 3),
        ("--ssl_config_file=m/ssl.config", "ssl_config_file", Path("m/ssl.config")),
        ("--model_config_file=m/models.config", "model_config_file", Path("m/models.config")),
        ("--model_config_file_poll_wait_seconds=30", "model_config_file_poll_wait_seconds", 30.0),
        ("--file_system_poll_wait_seconds=2", "file_system_poll_wait_seconds", 2.0),
        ("--poll_interval_ms=250", "file_system_poll_wait_seconds", 0.25),
        ("--poll_interval_ms=250", "model_config_file_poll_wait_seconds", 0.0),
        ("--model_name=lstm", "model_name", "lstm"),
        ("--models_root=/data", "models_root", Path("/data")),
        ("--max_num_load_retries=0", "max_num_load_retries", 0),
        ("--load_retry_interval_micros=10", "load_retry_interval_micros", 10),
        ("--tensorflow_intra_op_parallelism=2", "tensorflow_intra_op_parallelism", 2),
        ("--tensorflow_inter_op_parallelism=4", "tensorflow_inter_op_parallelism", 4),
        ("--portable", "portable", True),
    ],
)
def test_every_flag_sets_its_field(argument: str, field: str, value: object):
    """Its value is converted to the type of the field."""
    assert getattr(parse([MODEL, argument]), field) == value


def test_batching_parameters_file_is_accepted_with_enable_batching():
    """Both together are valid; the file alone is refused."""
    flags = parse([MODEL, "--enable_batching", "--batching_parameters_file=b.config"])
    assert (flags.enable_batching, flags.batching_parameters_file) == (True, Path("b.config"))


@pytest.mark.parametrize(("suffix", "value"), [("=true", True), ("", True), ("=1", True), ("=false", False)])
def test_a_boolean_flag_takes_an_optional_value(suffix: str, value: bool):
    """`--flag`, `--flag=true` and `--flag=false` mean what they mean to TensorFlow Serving."""
    flag = "allow_version_labels_for_unavailable_models"
    assert getattr(parse([MODEL, f"--{flag}{suffix}"]), flag) is value


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([MODEL, "--enable_profiler=true"], "--enable_profiler=true"),
        ([MODEL, "--batching_parameters_file=b"], "--batching_parameters_file needs --enable_batching"),
        ([MODEL, "--por=1"], "--por=1"),
        ([MODEL, "--rest_api_port=8501"], "--rest_api_port must be 0"),
        ([MODEL, "--port=many"], "'many'"),
        ([MODEL, "--port=-1"], "at least 0, got -1"),
        ([MODEL, "--grpc_max_threads=1"], "at least 2, got 1"),
        ([MODEL, "--file_system_poll_wait_seconds=0.5"], "--file_system_poll_wait_seconds: must be a whole number"),
        ([MODEL, "--file_system_poll_wait_seconds=nan"], "--file_system_poll_wait_seconds"),
        ([MODEL, "--file_system_poll_wait_seconds=-1"], "--file_system_poll_wait_seconds"),
        ([MODEL, "--allow_version_labels_for_unavailable_models=maybe"], "'maybe'"),
        ([], "--model_config_file"),
    ],
)
def test_an_invalid_command_line_exits_with_status_2_and_names_the_flag(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    """Unknown, abbreviated, unsupported and malformed flags are refused in one line."""
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert named in error


def test_help_lists_every_flag_and_says_it_is_not_tensorflow_serving(capsys: pytest.CaptureFixture[str]):
    """No flag is hidden, and no user mistakes the stand-in for TensorFlow Serving."""
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert "It is not TensorFlow Serving" in text
    assert [field.name for field in fields(Flags) if f"--{field.name}" not in text] == []


def test_the_command_line_is_parsed_without_importing_tensorflow():
    """`--help` and a mistyped flag respond at once, because no heavy package is imported before."""
    code = "import sys, model_server.__main__; print('tensorflow' in sys.modules, 'google' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    assert result.stdout.split() == ["False", "False"]
