"""Command-line interface: parses options, runs a command, returns its exit code.

Imports no TensorFlow until the settings are validated.
"""

import argparse
import functools
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from contract.card import Direction, load_assets
from contract.errors import ContractError
from contract.signatures import MODELS_CONFIG
from export import tokenizer_command
from export.config import MODELS, RUNS, Group, TrainConfig, load_config
from export.errors import ExportError
from export.interrupts import exit_code
from export.quiet import import_tensorflow_quietly
from export.repository import commands as repository_commands

_DESCRIPTION = "Train recurrent text generators, publish them as SavedModels, and manage what was published."
_WRAP = (
    "Publish a model that maps token ids to logits or probabilities, of every token or only the last one. A model of "
    "Embedding, SimpleRNN, LSTM, GRU and Dense layers carries its state from token to token. Any other model is served "
    "as a sliding-window model, padded on the left."
)
_CONFIG = "TOML file of settings; its keys are the names of the options, with underscores. Options override it"
_MODELS_DIR = "model repository (default: %(default)s)"
_EPILOG = """\
examples:
  python -m export train --corpus book.txt --name book
  cat *.txt | python -m export train --corpus - --token-unit word --cell gru --name words
  python -m export train --config export/recipes/demo.toml
  python -m export tokenizer --corpus book.txt --token-unit subword --vocab-size 1000
  python -m export wrap lesson.h5 --tokenizer tokenizer.json --name lesson
  python -m export list
  python -m export compare book words:2 --plot losses.png
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser; the options of `train` are the fields of `TrainConfig`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m export", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=raw)
    # Without abbreviations: one that a script uses would become ambiguous with the next option.
    strict = functools.partial(argparse.ArgumentParser, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=strict)
    train = commands.add_parser("train", help="train a generator and publish it", epilog=_EPILOG, formatter_class=raw)
    output = _add_train(train)
    resume = commands.add_parser("resume", help="resume a training run that was stopped, and publish it")
    publish = commands.add_parser("publish", help="publish the best epoch of a training run that was stopped")
    for command in (resume, publish):
        command.add_argument("run", type=Path, metavar="RUN", help="directory of the run, such as runs/demo")
    wrap = _add_wrap(
        commands.add_parser("wrap", help="publish an imported Keras or TensorFlow model", description=_WRAP)
    )
    for command in (output, resume, publish, wrap):
        command.add_argument("--models-dir", type=Path, default=MODELS, metavar="DIR", help=_MODELS_DIR)
    _add_tokenizer(commands.add_parser("tokenizer", help="show how a corpus is tokenized; trains no model"))
    repository_commands.add_commands(commands)
    return parser


def _add_train(command: argparse.ArgumentParser) -> Any:
    """Add the options of `train` in their groups; return the group of the output."""
    command.usage = "%(prog)s --corpus PATH --name NAME [options]"
    command.add_argument("--config", type=Path, metavar="FILE", help=_CONFIG)
    groups = {group: command.add_argument_group(group.value) for group in Group}
    for name, field in TrainConfig.model_fields.items():
        _add_setting(groups[field.json_schema_extra["group"]], name)
    output = groups[Group.OUTPUT]
    output.add_argument("--if-empty", action="store_true", help="do nothing if the repository has a model already")
    output.add_argument("--if-new", action="store_true", help="do nothing if the repository has a model of this name")
    output.add_argument(
        "--runs-dir", type=Path, default=RUNS, metavar="DIR", help="directory of the runs (default: %(default)s)"
    )
    return output


def _add_setting(group: Any, name: str) -> None:
    """Add the option of a setting; its type gives the metavar or the choices, which pydantic checks again in TOML."""
    field = TrainConfig.model_fields[name]
    options = {"dest": name, "default": argparse.SUPPRESS, "help": f"{field.description}{_default_of(field)}"}
    kinds = {kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)}
    if field.annotation is bool:
        options |= {"action": argparse.BooleanOptionalAction}
    elif get_origin(field.annotation) is Literal:
        options |= {"choices": get_args(field.annotation)}
    elif number := next((kind for kind in (int, float) if kind in kinds), None):
        options |= {"type": number, "metavar": number.__name__.upper()}
    else:
        options |= {"metavar": field.json_schema_extra["metavar"]}
    group.add_argument("--" + name.replace("_", "-"), **options)


def _default_of(field: Any) -> str:
    """Format the default; the description of a setting whose default is None says what that means."""
    if field.is_required():
        return " (required)"
    if field.default is None:
        return ""
    default = ("yes" if field.default else "no") if field.annotation is bool else field.default
    return f" (default: {default})"


def _add_wrap(command: argparse.ArgumentParser) -> argparse.ArgumentParser:
    command.add_argument(
        "model", type=Path, metavar="MODEL", help=".keras or .h5 file, or the directory of a SavedModel"
    )
    command.add_argument(
        "--tokenizer",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON of Keras's tokenizer.to_json(), or a tokenizer.json of Hugging Face's tokenizers",
    )
    command.add_argument("--name", required=True, metavar="NAME", help="name of the model in the repository")
    command.add_argument(
        "--context-length",
        type=_positive,
        metavar="INT",
        help="serve it as a sliding-window model of this many tokens; required if it cannot carry state and its input "
        "has no fixed length (default: the input's length)",
    )
    command.add_argument(
        "--direction",
        choices=get_args(Direction),
        default="forward",
        help="backward: it was trained to generate right to left (default: %(default)s)",
    )
    return command


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 1, got {text!r}")
    return int(text)


def _add_tokenizer(command: argparse.ArgumentParser) -> None:
    command.set_defaults(act=tokenizer_command.run)
    command.add_argument("--config", type=Path, dest="config_file", metavar="FILE", help=_CONFIG)
    for name in tokenizer_command.SETTINGS:
        _add_setting(command, name)
    command.add_argument(
        "--text",
        dest="source",
        metavar="PATH",
        help="text to encode: file, directory, or - for standard input (default: the validation split)",
    )
    command.add_argument(
        "--show", type=int, default=20, metavar="INT", help="tokens of the vocabulary to print (default: %(default)s)"
    )
    command.add_argument("--save", type=Path, metavar="FILE", help="write the tokenizer to this file")


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
            print(f"{version_dir} exists already: nothing to train")
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
    """Return the first version of the models, a glob pattern, that can be read; print why others were skipped."""
    for path in sorted(models_dir.glob(f"{model}/*/saved_model.pb")):
        if path.parent.name.isdigit():
            try:
                load_assets(path.parent)
                return path.parent
            except ContractError as error:
                print(f"skipped: {error}")
    return None
