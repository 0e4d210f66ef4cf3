"""The command line: TensorFlow Serving's flags in its own spelling, and four of our own.

Knows names, defaults and limits. Imports nothing heavy, so that `--help` and usage errors return at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NoReturn

DESCRIPTION = """\
A stand-in for TensorFlow Serving, for a machine without Docker: the same gRPC API, models.config and status codes, and
TensorFlow sessions as there. It is not TensorFlow Serving: it never merges calls, has no REST port, and is another
build of TensorFlow."""

DIFFERENCES = """\
what differs from TensorFlow Serving:
  an unknown flag is an error (exit code 2); there it is logged and ignored
  --host is 127.0.0.1 by default; there the port is open on 0.0.0.0
  --tensorflow_intra_op_parallelism is 1 by default; there it is the number of cores. The order of sums
    depends on the number of threads, so bit-exact results need a fixed number
  --ssl_config_file is checked before the models are loaded; an invalid one is an error (exit code 2)
  --enable_batching enforces the rules of batching on each call and fills it up to the next of allowed_batch_sizes, but
    merges no calls: batch_timeout_micros, max_enqueued_batches, num_batch_threads and pad_variable_length_inputs are
    read and have no effect, and parameters for splitting large calls are refused
  a call computes every output of its signature; there only those of output_filter, after the graph was optimized for
    each combination of them
  a version directory without saved_model.pb is skipped as incomplete; there it is a version that fails to load
  a version whose variables are missing fails to load; there its calls fail
  a model that fails at start leaves the others served; there the server exits
  a reload request stops waiting for its new models when its client gives up; there it keeps waiting, and blocks later
    reloads
  a tensor with fewer values than elements is expanded to at most 16,777,216 elements; there, as far as memory allows
  metadata, status, reload and Predict are served; Classify, Regress, MultiInference and SessionRun are not"""


@dataclass(frozen=True)
class Flags:
    """The parsed command line; each flag is described where `_parser` adds it."""

    host: str = "127.0.0.1"
    port: int = 8500
    rest_api_port: int = 0
    grpc_max_threads: int = 4 * (os.cpu_count() or 1)
    ssl_config_file: Path | None = None
    model_config_file: Path | None = None
    model_config_file_poll_wait_seconds: float = 0.0
    file_system_poll_wait_seconds: float = 1.0
    poll_interval_ms: int = 0
    model_name: str = "default"
    model_base_path: Path | None = None
    models_root: Path | None = None
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    tensorflow_intra_op_parallelism: int = 1
    tensorflow_inter_op_parallelism: int = 0
    enable_batching: bool = False
    batching_parameters_file: Path | None = None
    portable: bool = False


def parse(arguments: Sequence[str] | None = None) -> Flags:
    """Parse the command line; `--help` exits with status 0, a usage error with status 2.

    Args:
        arguments: Command-line arguments without the program's name; None for those of the process.
    """
    parser = _parser()
    flags = Flags(**vars(parser.parse_args(arguments)))
    if flags.poll_interval_ms:
        names = ("model_config_file_poll_wait_seconds", "file_system_poll_wait_seconds")
        polled = [name for name in names if getattr(flags, name)]
        flags = replace(flags, **dict.fromkeys(polled, flags.poll_interval_ms / 1000))
    if flags.rest_api_port:
        parser.error(f"--rest_api_port must be 0 (there is no REST API here), got {flags.rest_api_port}")
    if flags.model_config_file is None and flags.model_base_path is None:
        parser.error("--model_config_file or --model_base_path is required")
    if flags.batching_parameters_file is not None and not flags.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    if flags.portable and flags.tensorflow_intra_op_parallelism != 1:
        parser.error(
            "--portable needs --tensorflow_intra_op_parallelism=1, as it determines the order of sums, "
            f"got {flags.tensorflow_intra_op_parallelism}"
        )
    return flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with a one-line message; argparse would print the whole usage before it."""
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _number(kind: Callable[[str], float], at_least: float) -> Callable[[str], float]:
    what = "whole number" if kind is int else "number"

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a {what}, got {text!r}") from None
        if not value >= at_least:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"must be at least {at_least}, got {text}")
        return value

    return convert


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return values[text.lower()]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="model_server",
        description=DESCRIPTION,
        epilog=DIFFERENCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    defaults = {field.name: field.default for field in fields(Flags)}

    def flag(name: str, kind: Callable[[str], object], text: str, **more: Any) -> None:
        default = defaults[name]
        value = f"{default:g}" if isinstance(default, float) else default
        shown = "" if default is None or default is False else f" (default: {value})"
        parser.add_argument(f"--{name}", type=kind, default=default, help=text + shown, **more)

    def switch(name: str, text: str) -> None:
        flag(name, _boolean, text, nargs="?", const=True, metavar="true|false")

    _add_network_flags(flag)
    _add_model_flags(flag, switch)
    flag("tensorflow_intra_op_parallelism", _number(int, 1), "threads per operation", metavar="N")
    flag(
        "tensorflow_inter_op_parallelism",
        _number(int, 0),
        "operations that run in parallel; 0: TensorFlow's choice",
        metavar="N",
    )
    switch(
        "enable_batching",
        "check and pad every call by the rules of TensorFlow Serving's batching; calls are not merged",
    )
    flag("batching_parameters_file", Path, "text proto of BatchingParameters, such as max_batch_size", metavar="FILE")
    switch("portable", "compute the same bits on every kind of CPU, more slowly; not a flag of TensorFlow Serving")
    return parser


def _add_network_flags(flag: Callable[..., None]) -> None:
    flag("host", str, "address to listen on; not a flag of TensorFlow Serving", metavar="ADDRESS")
    flag("port", _number(int, 0), "gRPC port; 0 picks a free one", metavar="N")
    flag("rest_api_port", _number(int, 0), "must be 0: there is no REST API", metavar="0")
    flag(
        "grpc_max_threads", _number(int, 2), "gRPC threads: one more than the calls that run concurrently", metavar="N"
    )
    flag(
        "ssl_config_file",
        Path,
        "text proto of SSLConfig, with the PEM contents of key and certificates",
        metavar="FILE",
    )


def _add_model_flags(flag: Callable[..., None], switch: Callable[[str, str], None]) -> None:
    flag("model_config_file", Path, "text proto of ModelServerConfig, with model_config_list", metavar="FILE")
    flag(
        "model_config_file_poll_wait_seconds",
        _number(int, 0),
        "interval of re-reading that file; 0: never",
        metavar="S",
    )
    flag(
        "file_system_poll_wait_seconds",
        _number(int, 0),
        "interval of scanning for versions; 0: only at start",
        metavar="S",
    )
    flag(
        "poll_interval_ms",
        _number(int, 0),
        "sets both of these intervals, unless they are 0, in milliseconds; 0: unset; not a flag of TensorFlow Serving",
        metavar="MS",
    )
    flag("model_name", str, "name of the model in --model_base_path", metavar="NAME")
    flag("model_base_path", Path, "directory of the versions of one model, in place of a config file", metavar="DIR")
    flag(
        "models_root",
        Path,
        "directory that base paths under /models refer to (default: that of the config file); not a flag of TensorFlow "
        "Serving",
        metavar="DIR",
    )
    switch(
        "allow_version_labels_for_unavailable_models",
        "allow a new label for a version that is not loaded yet; without it the file may have no labels at start",
    )
    flag("max_num_load_retries", _number(int, 0), "maximum retries of a version that fails to load", metavar="N")
    flag("load_retry_interval_micros", _number(int, 0), "microseconds between these retries", metavar="US")
