"""Commands on the model repository: their options, and the functions that they call.

Imports TensorFlow only for `verify`, so the other commands start fast.
"""

import argparse
import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.labels import STABLE
from export.config import MODELS
from export.errors import RepositoryError
from export.quiet import import_tensorflow_quietly
from export.repository import card_display, comparison_display, listing, promotion, removal
from export.repository.unloading import DEFAULT_WAIT_S
from export.repository.versions import Repository

_PROMOTED = (
    "A label takes effect once gateways have re-read labels.json and the version is loaded; running sequences stay on "
    "their version. Before the first promotion the newest version is the default. Afterwards a new version is served "
    "only as NAME:VERSION until it is promoted. models/routing.toml splits the traffic of a model over its versions."
)
_LABEL = "label to move; requests select it with NAME@LABEL, and stable also with NAME alone (default: %(default)s)"
_MODELS_DIR = "model repository (default: %(default)s)"
_REFERENCE = "NAME:VERSION, NAME for the newest version, or the directory of a version"


def add_commands(commands: Any) -> None:
    """Add the parsers; the default `act` of each is the function to call with its options as keyword arguments."""
    listed = _add(commands, "list", listing.list_versions, "show every version in the repository, damaged ones too")
    show = _add(commands, "show", card_display.show, "show the card of a version: metrics, settings, samples")
    show.add_argument("reference", metavar="VERSION", help=_REFERENCE)
    verifies = "check that a version is complete and computes what its Keras model does"
    verify = _add(commands, "verify", _verify, verifies)
    verify.add_argument("reference", nargs="?", metavar="VERSION", help=_REFERENCE)
    verify.add_argument("--all", action="store_true", dest="verify_all", help="every version in the repository")
    remove = _add_remove(commands)
    moves = "move a label, by default stable, to a version"
    promote = _add(commands, "promote", promotion.promote, moves, epilog=_PROMOTED)
    promote.add_argument("reference", metavar="VERSION", help="NAME:VERSION, or NAME for the newest version")
    promote.add_argument("--label", default=STABLE, metavar="LABEL", help=_LABEL)
    rollback = _add(commands, "rollback", promotion.rollback, "make the previous stable version stable again")
    rollback.add_argument("name", metavar="NAME", help="name of the model")
    compare = _add(commands, "compare", comparison_display.compare, "compare versions side by side; plot their losses")
    compare.add_argument("references", nargs="+", metavar="VERSION", help=_REFERENCE)
    compare.add_argument("--plot", type=Path, metavar="FILE.png", help="plot the losses by epoch and by minutes")
    for command in (listed, show, compare):
        command.add_argument("--json", action="store_true", dest="as_json", help="print JSON and nothing else")
    for command in (listed, show, verify, remove, promote, rollback, compare):
        command.add_argument("--models-dir", type=Path, default=MODELS, metavar="DIR", help=_MODELS_DIR)


def _add(commands: Any, name: str, act: Callable[..., int], help: str, **options: Any) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, **options)
    command.set_defaults(act=act)
    return command


def _add_remove(commands: Any) -> argparse.ArgumentParser:
    command = _add(commands, "remove", removal.remove, "remove a version, or a model with all its versions")
    command.add_argument("reference", metavar="VERSION", help="NAME:VERSION, or NAME for all its versions")
    command.add_argument("--yes", action="store_true", help="do not ask for confirmation; required without a terminal")
    command.add_argument(
        "--wait",
        type=_seconds,
        default=DEFAULT_WAIT_S,
        dest="wait_s",
        metavar="SECONDS",
        help="when the last version is removed: time between removing the model from models.config and deleting its "
        "files; must exceed the sum of the model servers' two poll intervals; 0 if none is running "
        "(default: %(default)g)",
    )
    command.add_argument(
        "--server",
        type=_server,
        action="append",
        default=[],
        dest="servers",
        metavar="HOST:PORT",
        help="model server to poll for the status, so that the wait ends when it has unloaded the model; repeatable",
    )
    return command


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number of seconds, at least 0, got {text!r}")


def _server(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got {text!r}")
    return text


def _verify(models_dir: Path, reference: str | None, *, verify_all: bool) -> int:
    repository = Repository(models_dir)
    if (reference is None) != verify_all:
        raise RepositoryError("verify needs either VERSION or --all")
    models = repository.models() if reference is None else []
    problems = [f"{model.path}: {model.problem}" for model in models if model.problem]
    versions = [version for model in models for version in model.versions]
    versions = [repository.find(reference)] if reference is not None else versions
    if not versions and not problems:
        print(f"{repository.path} has no model yet: nothing to verify")
        return 0
    import_tensorflow_quietly()
    from export.repository.verification import verify  # noqa: PLC0415 - it needs TensorFlow

    return verify(versions, problems)
