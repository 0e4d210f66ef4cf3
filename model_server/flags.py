"""The command line: TensorFlow Serving's flags in its own spelling, and four of our own.

Imports nothing heavy, so that `--help` and usage errors return at once.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

DESCRIPTION = """\
A stand-in for TensorFlow Serving, for a machine without Docker: the same gRPC API, models.config and status codes, and
TensorFlow sessions. It is not TensorFlow Serving: it never merges calls, has no REST port, and is another
build of TensorFlow."""

DIFFERENCES = """\
what differs from TensorFlow Serving:
  an unknown flag is an error (exit code 2); TensorFlow Serving logs and ignores it
  --host is 127.0.0.1 by default; TensorFlow Serving listens on 0.0.0.0
  --tensorflow_intra_op_parallelism is 1 by default; in TensorFlow Serving it is the number of cores. The order of
    sums depends on the number of threads, so bit-exact results need a fixed number
  --ssl_config_file is checked before the models are loaded; an invalid one is an error (exit code 2)
  a call computes every output of its signature; TensorFlow Serving computes only those of output_filter, and
    optimizes the graph for each combination of them
  a version directory without saved_model.pb is skipped as incomplete; TensorFlow Serving fails to load it
  a version whose variables are missing fails to load; in TensorFlow Serving its calls fail
  a model that fails at start leaves the others served; TensorFlow Serving exits
  a reload request stops waiting for its new models when its client gives up; in TensorFlow Serving it keeps waiting,
    and blocks later reloads
  a tensor with fewer values than elements is expanded to at most 67,108,864 elements; in TensorFlow Serving, as far
    as memory allows
  a SavedModel must be one of TensorFlow 2, in saved_model.pb, that needs no asset files
  outputs of other types than float32 and int32 are sent as tensor_content
  metadata, status, reload and Predict are served; Classify, Regress, MultiInference and SessionRun are not"""
# Of most flags in TensorFlow Serving. A thread of Python waits for at most 9,223,372,036 s.
_MAX_INT32 = 2**31 - 1


def _number(at_least: int, at_most: int = _MAX_INT32) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None
        if value < at_least:
            raise argparse.ArgumentTypeError(f"must be at least {at_least}, got {text}")
        if value > at_most:
            raise argparse.ArgumentTypeError(f"must be at most {at_most}, got {text}")
        return value

    return convert


def _boolean(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return values[text.lower()]


def _flag(default: object, kind: Callable[[str], object], text: str, **more: Any) -> Any:
    """Declare a flag: its default, what parses it, its help, and further arguments of `add_argument`."""
    return field(default=default, metadata={"type": kind, "help": text, **more})


def _switch(text: str) -> Any:
    return _flag(False, _boolean, text, nargs="?", const=True, metavar="true|false")


@dataclass(frozen=True)
class Flags:
    """The flags: each field is the flag of its name."""

    host: str = _flag("127.0.0.1", str, "address to listen on; not a flag of TensorFlow Serving", metavar="ADDRESS")
    port: int = _flag(8500, _number(0, 65_535), "gRPC port; 0 picks a free one", metavar="N")
    rest_api_port: int = _flag(0, _number(0), "must be 0: there is no REST API", metavar="0")
    grpc_max_threads: int = _flag(
        4 * len(os.sched_getaffinity(0)),
        _number(2),
        "gRPC threads: one more than the calls that run concurrently",
        metavar="N",
    )
    ssl_config_file: Path | None = _flag(
        None, Path, "text proto of SSLConfig, with the PEM contents of key and certificates", metavar="FILE"
    )
    model_config_file: Path | None = _flag(
        None, Path, "text proto of ModelServerConfig, with model_config_list", metavar="FILE"
    )
    model_config_file_poll_wait_seconds: float = _flag(
        0.0, _number(0), "interval at which --model_config_file is read again; 0: never", metavar="S"
    )
    file_system_poll_wait_seconds: float = _flag(
        1.0, _number(0), "interval at which base paths are scanned for versions; 0: only at start", metavar="S"
    )
    poll_interval_ms: int = _flag(
        0,
        _number(0),
        "overrides --model_config_file_poll_wait_seconds and --file_system_poll_wait_seconds, unless they are 0, in "
        "milliseconds; 0: unset; not a flag of TensorFlow Serving",
        metavar="MS",
    )
    model_name: str = _flag("default", str, "name of the model in --model_base_path", metavar="NAME")
    model_base_path: Path | None = _flag(
        None, Path, "directory of the versions of one model, in place of a config file", metavar="DIR"
    )
    models_root: Path | None = _flag(
        None,
        Path,
        "directory that base paths under /models refer to (default: that of the config file); not a flag of TensorFlow "
        "Serving",
        metavar="DIR",
    )
    allow_version_labels_for_unavailable_models: bool = _switch(
        "allow a new label for a version that is not loaded yet; without it the file may have no labels at start"
    )
    max_num_load_retries: int = _flag(5, _number(0), "maximum retries of a version that fails to load", metavar="N")
    load_retry_interval_micros: int = _flag(
        60_000_000, _number(0, 1_000_000 * _MAX_INT32), "microseconds between load retries", metavar="US"
    )
    tensorflow_intra_op_parallelism: int = _flag(1, _number(1), "threads per operation", metavar="N")
    tensorflow_inter_op_parallelism: int = _flag(
        0,
        _number(-1),
        "threads that run the operations of all calls; 0: as many as cores; -1: none, a call runs in its own thread",
        metavar="N",
    )
    portable: bool = _switch("be bit-exact across types of CPU, which is slower; not a flag of TensorFlow Serving")


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="model_server",
        description=DESCRIPTION,
        epilog=DIFFERENCES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for flag in fields(Flags):
        value = f"{flag.default:g}" if isinstance(flag.default, float) else flag.default
        shown = "" if flag.default is None or flag.default is False else f" (default: {value})"
        options = {**flag.metadata, "help": flag.metadata["help"] + shown}
        parser.add_argument(f"--{flag.name}", default=flag.default, **options)
    return parser
