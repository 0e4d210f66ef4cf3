"""Commands on the model repository: their options, and the functions that they call.

Imports TensorFlow only for `verify`, so the other commands start fast.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from contract.labels import STABLE
from export.command import PATH, Command, GroupedOption
from export.config import MODELS
from export.quiet import import_tensorflow_quietly
from export.repository import card_display, comparison_display, listing, promotion, removal
from export.repository.unloading import DEFAULT_WAIT_S
from export.repository.versions import Repository

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")


def models_dir_option(group: str = "options") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the option of the model repository, in a group of the help."""
    return click.option(
        "--models-dir",
        type=PATH,
        default=MODELS,
        metavar="DIR",
        help="Model repository.",
        cls=GroupedOption,
        group=group,
    )


@click.command("list", cls=Command)
@_json_option
@models_dir_option()
def list_versions(models_dir: Path, as_json: bool) -> int:
    """Show every version in the repository, damaged ones too."""
    return listing.list_versions(models_dir, as_json=as_json)


@click.command(cls=Command, short_help="Show the card of a version: metrics, settings, samples.")
@click.argument("version")
@_json_option
@models_dir_option()
def show(models_dir: Path, version: str, as_json: bool) -> int:
    """Show the card of a version: metrics, settings, samples.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    return card_display.show(models_dir, version, as_json=as_json)


@click.command(cls=Command, short_help="Check that a version computes what its Keras model does.")
@click.argument("version", required=False)
@click.option("--all", "verify_all", is_flag=True, help="Verify every version in the repository.")
@models_dir_option()
def verify(models_dir: Path, version: str | None, verify_all: bool) -> int:
    """Check that a version is complete and computes what its Keras model does.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    repository = Repository(models_dir)
    if (version is None) != verify_all:
        raise click.UsageError("verify needs either VERSION or --all")
    models = repository.models() if version is None else []
    problems = [f"{model.path}: {model.problem}" for model in models if model.problem]
    versions = [each for model in models for each in model.versions]
    versions = [repository.find(version)] if version is not None else versions
    if not versions and not problems:
        print(f"{repository.path} has no model yet: nothing to verify")
        return 0
    import_tensorflow_quietly()
    from export.repository import verification  # noqa: PLC0415 - it needs TensorFlow

    return verification.verify(versions, problems)


def _finite(_context: click.Context, _param: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise click.BadParameter(f"must be a number of seconds, got {value}")
    return value


def _servers(_context: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        host, _, port = value.rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise click.BadParameter(f"must be HOST:PORT, got {value!r}")
    return values


@click.command(cls=Command, short_help="Remove a version, or a model with all its versions.")
@click.argument("version")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation; required without a terminal.")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=DEFAULT_WAIT_S,
    metavar="SECONDS",
    help="When the last version is removed: time between removing the model from models.config and deleting its files; "
    "must exceed the sum of the model servers' two poll intervals; 0 if none is running.",
)
@click.option(
    "--server",
    "servers",
    multiple=True,
    callback=_servers,
    metavar="HOST:PORT",
    help="Model server to poll for the status, so that the wait ends when it has unloaded the model; repeatable.",
)
@models_dir_option()
def remove(models_dir: Path, version: str, **options: Any) -> int:
    """Remove a version, or a model with all its versions. VERSION is NAME:VERSION, or NAME for all its versions."""
    return removal.remove(models_dir, version, **options)


@click.command(cls=Command, short_help="Move a label, by default stable, to a version.")
@click.argument("version")
@click.option(
    "--label",
    default=STABLE,
    metavar="LABEL",
    help="Label to move; requests select it with NAME@LABEL, and stable also with NAME alone.",
)
@models_dir_option()
def promote(models_dir: Path, version: str, label: str) -> int:
    """Move a label, by default stable, to a version. VERSION is NAME:VERSION, or NAME for the newest version.

    A label takes effect once gateways have re-read labels.json and the version is loaded; running sequences stay on
    their version. Before the first promotion the newest version is the default. Afterwards a new version is served
    only as NAME:VERSION until it is promoted. models/routing.toml splits the traffic of a model over its versions.
    """
    return promotion.promote(models_dir, version, label)


@click.command(cls=Command)
@click.argument("name")
@models_dir_option()
def rollback(models_dir: Path, name: str) -> int:
    """Make the previous stable version of a model stable again."""
    return promotion.rollback(models_dir, name)


@click.command(cls=Command, short_help="Compare versions side by side; plot their losses.")
@click.argument("versions", nargs=-1, required=True, metavar="VERSION...")
@click.option(
    "--plot",
    type=PATH,
    metavar="FILE.png",
    help="Plot the losses by epoch and by minutes.",
)
@_json_option
@models_dir_option()
def compare(models_dir: Path, versions: tuple[str, ...], plot: Path | None, as_json: bool) -> int:
    """Compare versions side by side, and plot their losses.

    VERSION is NAME:VERSION, NAME for the newest version, or the directory of a version.
    """
    return comparison_display.compare(models_dir, versions, plot, as_json=as_json)
