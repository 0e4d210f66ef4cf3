"""The commands `promote` and `rollback`: choose the version of requests that name none, while requests run."""

import re
from pathlib import Path

import click

from contract.audit import record_command
from contract.models_config import LABEL_PATTERN, STABLE
from contract.signatures import MODELS_CONFIG
from export.command import Command, models_dir_option
from export.errors import RepositoryError
from export.repository.models_config import change_labels
from export.repository.versions import Repository

# Label of the previously stable version, which `rollback` returns to.
PREVIOUS = "previous"


@click.command(cls=Command)
@click.argument("reference", metavar="VERSION")
@click.option(
    "--label",
    default=STABLE,
    metavar="LABEL",
    help="Label to move; requests select it with NAME@LABEL, and stable also with NAME alone.",
)
@models_dir_option()
def promote(models_dir: Path, reference: str, label: str) -> int:
    """Move a label, by default stable, to a version. VERSION is NAME:VERSION, or NAME for the newest version.

    A label takes effect once gateways have re-read labels.json and the version is loaded; running sequences stay on
    their version. Before the first promotion the newest version is the default. Afterwards a new version is served
    only as NAME:VERSION until it is promoted. models/routing.toml splits the traffic of a model over its versions.
    """
    if not re.fullmatch(LABEL_PATTERN, label) or label == PREVIOUS:
        raise RepositoryError(
            f"label must be lower-case letters, digits, - and _, such as stable or canary, and not {PREVIOUS}, which "
            f"is reserved for the previous stable version; got {label!r}"
        )
    version = Repository(models_dir).named(reference)[-1]
    version.read()
    name, number = version.path.parent.name, version.number
    before: dict[str, int] = {}

    def change(labels: dict[str, int], versions: list[int]) -> dict[str, int]:
        if number not in versions:
            raise RepositoryError(f"{name} has no version {number} under its base_path in {MODELS_CONFIG}")
        before.update(labels)
        # Without a stable label, the newest version was served.
        stable = labels.get(STABLE, versions[-1])
        previous = {PREVIOUS: stable} if label == STABLE and stable != number else {}
        return {**labels, label: number, **previous}

    change_labels(models_dir, name, change)
    record_command("promote", model=f"{name}:{number}", label=label)
    _report(name, label, before.get(label), number)
    return 0


@click.command(cls=Command)
@click.argument("name")
@models_dir_option()
def rollback(models_dir: Path, name: str) -> int:
    """Make the previous stable version of a model stable again."""
    numbers = [version.number for version in Repository(models_dir).named(name)]
    if ":" in name:
        raise RepositoryError(f"rollback takes NAME; to choose a version: sostenuto promote {name}")

    def change(labels: dict[str, int], versions: list[int]) -> dict[str, int]:
        stable = labels.get(STABLE, max(versions, default=0))
        older = [version for version in versions if version < stable]
        # Without a promotion the newest version was stable, and before that its predecessor.
        previous = labels.get(PREVIOUS) if STABLE in labels else max(older, default=None)
        if previous is None or previous not in numbers:
            raise RepositoryError(f"{name} has no earlier stable version than {stable}: nothing to roll back to")
        return {**labels, STABLE: previous, PREVIOUS: stable}

    labels = change_labels(models_dir, name, change)
    record_command("rollback", model=f"{name}:{labels[STABLE]}")
    _report(name, STABLE, labels[PREVIOUS], labels[STABLE])
    return 0


def _report(name: str, label: str, before: int | None, now: int) -> None:
    is_new = "" if before is None else f" (was {before})"
    print(f"{name}: {label} is " + (f"already version {now}" if before == now else f"now version {now}{is_new}"))
