"""Parsing of the command line."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from model_server.flags import Flags, parse

MODEL = "--model_base_path=/models/tiny"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--port=9000", 9000),
        ("--host=0.0.0.0", "0.0.0.0"),
        ("--model_config_file=m/models.config", Path("m/models.config")),
        ("--file_system_poll_wait_seconds=2", 2.0),
        ("--max_num_load_retries=0", 0),
        ("--allow_version_labels_for_unavailable_models=true", True),
        ("--allow_version_labels_for_unavailable_models=1", True),
        ("--allow_version_labels_for_unavailable_models", True),
        ("--allow_version_labels_for_unavailable_models=false", False),
    ],
)
def test_a_flag_sets_its_field(argument, value):
    assert getattr(parse([MODEL, argument]), argument.removeprefix("--").partition("=")[0]) == value


def test_the_poll_interval_overrides_the_others_unless_they_are_0():
    """The config file is not polled by default."""
    flags = parse([MODEL, "--poll_interval_ms=250"])
    assert (flags.file_system_poll_wait_seconds, flags.model_config_file_poll_wait_seconds) == (0.25, 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([MODEL, "--enable_profiler=true"], "--enable_profiler=true"),
        ([MODEL, "--enable_batching=true"], "--enable_batching=true"),
        ([MODEL, "--por=1"], "--por=1"),
        ([MODEL, "--rest_api_port=8501"], "--rest_api_port must be 0"),
        ([MODEL, "--port=many"], "'many'"),
        ([MODEL, "--port=-1"], "at least 0, got -1"),
        ([MODEL, "--port=65536"], "at most 65535, got 65536"),
        ([MODEL, "--grpc_max_threads=1"], "at least 2, got 1"),
        ([MODEL, "--file_system_poll_wait_seconds=10000000000"], "at most 2147483647, got 10000000000"),
        ([MODEL, "--file_system_poll_wait_seconds=0.5"], "--file_system_poll_wait_seconds: must be a whole number"),
        ([MODEL, "--allow_version_labels_for_unavailable_models=maybe"], "'maybe'"),
        ([MODEL, "--portable", "--tensorflow_intra_op_parallelism=2"], "--portable needs"),
        ([], "--model_config_file"),
    ],
)
def test_an_invalid_command_line_exits_with_status_2_and_names_the_flag(arguments, named, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1
    assert named in error


def test_help_lists_every_flag_and_says_it_is_not_tensorflow_serving(capsys):
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
