"""Commands on the model repository: their options, and the functions that they call.

Imports TensorFlow only for `verify`, so the other commands start fast.
"""

import argparse
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
    "Until a version is promoted the newest answers. Afterwards a new one is served beside it, as NAME:VERSION, until "
    "it is promoted, too. models/routing.toml shares the requests out over several."
)
_REFERENCE = "NAME:VERSION, NAME for the newest version, or the folder of a version"


def add_commands(commands: Any) -> None:
    """Add the parsers; the default `act` of each is the function that runs it."""
    list_command = commands.add_parser("list", help="show every version in the repository", description=listing.__doc__)
    list_command.set_defaults(act=_list)
    show = commands.add_parser("show", help="show what a version says of itself: figures, settings, samples")
    show.set_defaults(act=_show)
    show.add_argument("version", metavar="VERSION", help=_REFERENCE)
    verify = commands.add_parser("verify", help="check that a version is whole and computes what its model computes")
    verify.set_defaults(act=_verify)
    verify.add_argument("version", nargs="?", metavar="VERSION", help=_REFERENCE)
    verify.add_argument("--all", action="store_true", help="every version in the repository")
    remove = commands.add_parser("remove", help="remove a version, or a model with all its versions")
    remove.set_defaults(act=_remove)
    remove.add_argument("version", metavar="VERSION", help="NAME:VERSION, or NAME for all its versions")
    remove.add_argument("--yes", action="store_true", help="do not ask; needed without a terminal")
    remove.add_argument(
        "--wait",
        type=_seconds,
        default=DEFAULT_WAIT_S,
        metavar="SECONDS",
        help="time between the last version's leaving models.config and its removal; more than both poll intervals of "
        "the model servers together, 0 if none runs (default: %(default)g)",
    )
    remove.add_argument(
        "--server",
        type=_server,
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="model server that is asked for its status, to wait no longer than it takes; may be given several times",
    )
    promote = commands.add_parser(
        "promote", help="choose the version that answers", description=promotion.__doc__, epilog=_PROMOTED
    )
    promote.set_defaults(act=_promote)
    promote.add_argument("version", metavar="VERSION", help="NAME:VERSION, or NAME for the newest version")
    promote.add_argument(
        "--label", default=STABLE, metavar="LABEL", help="what requests call it: NAME@LABEL (default: stable, or NAME)"
    )
    rollback = commands.add_parser("rollback", help="go back to the version that answered before")
    rollback.set_defaults(act=_rollback)
    rollback.add_argument("name", metavar="NAME", help="name of the model")
    compare = commands.add_parser("compare", help="show versions side by side, and draw their losses")
    compare.set_defaults(act=_compare)
    compare.add_argument("versions", nargs="+", metavar="VERSION", help=_REFERENCE)
    compare.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the losses by epoch and by minutes")
    for command in (list_command, show, compare):
        command.add_argument("--json", action="store_true", dest="as_json", help="print JSON and nothing else")
    for command in (list_command, show, verify, remove, promote, rollback, compare):
        command.add_argument("--models-dir", type=Path, default=MODELS, help=f"repository (default: {MODELS})")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def _server(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got {text!r}")
    return text


def _list(options: dict[str, Any]) -> int:
    return listing.list_versions(options["models_dir"], as_json=options["as_json"])


def _show(options: dict[str, Any]) -> int:
    version = Repository(options["models_dir"]).find(options["version"])
    return card_display.show(version, as_json=options["as_json"])


def _remove(options: dict[str, Any]) -> int:
    return removal.remove(
        options["models_dir"],
        options["version"],
        yes=options["yes"],
        wait_s=options["wait"],
        servers=options["server"],
    )


def _promote(options: dict[str, Any]) -> int:
    return promotion.promote(options["models_dir"], options["version"], options["label"])


def _rollback(options: dict[str, Any]) -> int:
    return promotion.rollback(options["models_dir"], options["name"])


def _compare(options: dict[str, Any]) -> int:
    repository = Repository(options["models_dir"])
    versions = [repository.find(reference) for reference in options["versions"]]
    return comparison_display.compare(versions, options["plot"], as_json=options["as_json"])


def _verify(options: dict[str, Any]) -> int:
    repository, reference = Repository(options["models_dir"]), options["version"]
    if (reference is None) != options["all"]:
        raise RepositoryError("verify takes a version, or --all and no version")
    models = repository.models() if reference is None else []
    problems = [f"{model.path}: {model.problem}" for model in models if model.problem]
    versions = [version for model in models for version in model.versions]
    versions = [repository.find(reference)] if reference is not None else versions
    if not versions and not problems:
        print(f"{repository.path} holds no model yet: nothing to verify")
        return 0
    import_tensorflow_quietly()
    from export.repository import verifying  # noqa: PLC0415 - it needs TensorFlow

    return verifying.verify(versions, problems)
