"""Command-line interface: parses options, runs a command, returns its exit code.

Imports no TensorFlow until the settings are validated.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from contract.card import Direction, load_assets
from contract.errors import ContractError
from contract.signatures import MODELS_CONFIG
from export import tokenizer_command
from export.config import MODELS, RUNS, TrainConfig, load_config
from export.errors import ExportError
from export.interrupts import exit_code
from export.quiet import import_tensorflow_quietly
from export.repository import commands as repository_commands

_DESCRIPTION = "Train recurrent text generators, publish them as SavedModels, and manage what was published."
_WRAP = (
    "Publish a model from token ids to logits or probabilities, of every token or the last one. Where its layers are "
    "Embedding, SimpleRNN, LSTM, GRU and Dense it carries its state from token to token; any other is a "
    "sliding-window model, left-padded."
)
_CONFIG = "settings from a TOML file, which options override"
_EPILOG = """\
examples:
  python -m export train --corpus book.txt --name book
  cat *.txt | python -m export train --corpus - --unit word --cell gru --name words
  python -m export train --config export/recipes/demo.toml
  python -m export tokenizer --corpus book.txt --unit subword --vocab-size 1000
  python -m export wrap lesson.h5 --tokenizer tokenizer.json --name lesson
  python -m export list
  python -m export compare book words:2 --plot losses.png
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the options of `train` are the fields of `TrainConfig`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m export", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a generator and publish it", epilog=_EPILOG, formatter_class=raw)
    train.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    train.add_argument("--if-empty", action="store_true", help="do nothing if the repository has any model")
    train.add_argument("--if-new", action="store_true", help="do nothing if the repository has a model of this name")
    _add_settings(train, tuple(TrainConfig.model_fields))
    resume = commands.add_parser("resume", help="resume a training that was stopped, and publish it")
    publish = commands.add_parser("publish", help="publish the best weights of a training that was stopped")
    for command in (resume, publish):
        command.add_argument("run", type=Path, help="directory of the run, such as runs/demo")
    wrap = _add_wrap(commands.add_parser("wrap", help="publish a model that was trained elsewhere", description=_WRAP))
    for command in (train, resume, publish, wrap):
        command.add_argument("--models-dir", type=Path, default=MODELS, help=f"repository (default: {MODELS})")
    train.add_argument("--runs-dir", type=Path, default=RUNS, help=f"directory of runs (default: {RUNS})")
    _add_tokenizer(commands.add_parser("tokenizer", help="show how a unit tokenizes a corpus; trains no model"))
    repository_commands.add_commands(commands)
    return parser


def _add_settings(command: argparse.ArgumentParser, names: Sequence[str]) -> None:
    for name in names:
        field = TrainConfig.model_fields[name]
        default = "required" if field.is_required() else f"default: {field.default}".replace("None", "none")
        option = "--" + name.replace("_", "-")
        if field.annotation is bool:
            flag = argparse.BooleanOptionalAction
            command.add_argument(option, dest=name, action=flag, default=argparse.SUPPRESS, help=field.description)
            continue
        convert = _converter(field.annotation)
        help_text = f"{field.description} ({default})"
        command.add_argument(option, dest=name, type=convert, default=argparse.SUPPRESS, metavar="X", help=help_text)


def _add_wrap(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument(
        "model", type=Path, metavar="MODEL", help=".keras or .h5 file, or the directory of a SavedModel"
    )
    command.add_argument(
        "--tokenizer", type=Path, required=True, metavar="FILE", help="Keras's tokenizer.to_json(), or a tokenizer.json"
    )
    command.add_argument("--name", required=True, help="name of the model in the repository")
    command.add_argument(
        "--window",
        type=_positive,
        metavar="N",
        help="serve it as a sliding-window model of N tokens; needed if it cannot carry state and has no fixed length",
    )
    command.add_argument(
        "--direction", choices=get_args(Direction), default="forward", help="backward: it generates right to left"
    )
    return command


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _add_tokenizer(command: argparse.ArgumentParser) -> None:
    command.set_defaults(act=tokenizer_command.run)
    command.add_argument("--config", type=Path, dest="config_file", metavar="FILE", help=_CONFIG)
    _add_settings(command, tokenizer_command.SETTINGS)
    command.add_argument(
        "--text", dest="source", metavar="FILE", help="text to encode, - for standard input (default: what is held out)"
    )
    command.add_argument(
        "--show", type=int, default=20, metavar="N", help="tokens of the vocabulary to print (default: 20)"
    )
    command.add_argument("--save", type=Path, metavar="FILE", help="write the tokenizer's file")


def _converter(annotation: Any) -> Any:
    """Return int or float for a numeric field; pydantic checks its limits."""
    kinds = {get_origin(kind) or kind for kind in (annotation, *get_args(annotation))}
    return next((kind for kind in (int, float) if kind in kinds), str)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 on success; 1 after an error, printed in one line; 130 after Ctrl-C, 143 after SIGTERM. `argparse` exits with
        2 on an unknown option.
    """
    for stream in (sys.stdout, sys.stderr):
        # A sample may hold any character of the corpus. A terminal that cannot encode it must not end the training.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = vars(build_parser().parse_args(arguments))
    try:
        code = _run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe; discard what is flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except (ExportError, ContractError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        return exit_code(error)


def _run(options: dict[str, Any]) -> int:
    command, act = options.pop("command"), options.pop("act", None)
    if act is not None:
        return act(**options)
    models_dir = options.pop("models_dir")
    if command == "train":
        if_empty, if_new, runs_dir = options.pop("if_empty"), options.pop("if_new"), options.pop("runs_dir")
        config = load_config(options.pop("config"), options)
        pattern = "*" if if_empty else config.name
        if (if_empty or if_new) and (version_dir := _first_readable_version(models_dir, pattern)):
            print(f"{version_dir} is there already: nothing to train")
            if not (models_dir / MODELS_CONFIG).exists():
                _add_to_models_config(models_dir, version_dir.parent.name)
            return 0
    # TensorFlow takes seconds to import, so import it only after the settings are validated.
    import_tensorflow_quietly(start=command not in {"train", "resume"})
    if command == "wrap":
        from export import wrapping  # noqa: PLC0415

        return wrapping.wrap(models_dir=models_dir, **options)
    from export.training import workflow  # noqa: PLC0415

    if command == "train":
        return workflow.train(config, models_dir, runs_dir)
    if command == "resume":
        return workflow.resume(options["run"], models_dir)
    return workflow.publish_best(options["run"], models_dir)


def _add_to_models_config(models_dir: Path, name: str) -> None:
    """Add a model that was copied here without `models.config`, so that model servers load it."""
    # The protobuf messages need TensorFlow.
    import_tensorflow_quietly(start=False)
    from export.repository.models_config import add_to_models_config  # noqa: PLC0415

    add_to_models_config(models_dir, name)
    print(f"{name} is listed in {models_dir / MODELS_CONFIG} now")


def _first_readable_version(models_dir: Path, model: str) -> Path | None:
    """Return the first version that this release can read; print why each one before it was skipped.

    Args:
        models_dir: The repository.
        model: Glob pattern of the models' names.
    """
    for path in sorted(models_dir.glob(f"{model}/*/saved_model.pb")):
        if path.parent.name.isdigit():
            try:
                load_assets(path.parent)
                return path.parent
            except ContractError as error:
                print(f"skipped: {error}")
    return None
