"""Labels and traffic splits of versions, which change while requests run, and the commands `promote` and `rollback`."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

import click

from contract.audit import record_command
from contract.models_config import LABEL_PATTERN, PREVIOUS, STABLE, Shares
from contract.signatures import MODELS_CONFIG
from export.command import Command, models_dir_option
from export.errors import NoSuchVersion, RepositoryError
from export.repository.models_config import ConfigFiles, locked, read_entries
from export.repository.versions import Repository


def move_labels(
    models_dir: Path, name: str, moved: Mapping[str, int | None], shares: Shares | None = None
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Move labels of a model to versions, or remove them (None); return the labels before and after.

    The version that was stable gets the label `previous`. `shares` replaces the traffic split; an empty one ends it,
    None keeps it. The versions that either names and the two newest ones are served. Idempotent.

    Raises:
        NoSuchVersion: a version does not exist, or the model is not listed.
        RepositoryError: a version is damaged, or the split names a version or a label that does not exist.
    """
    numbers = [number for number in moved.values() if number is not None]
    for number in numbers:
        Repository(models_dir).named(f"{name}:{number}")[-1].read()
    with locked(models_dir):
        files = ConfigFiles(models_dir)
        entry = files.find(name)
        if entry is None:
            raise NoSuchVersion(f"{name} is not in {models_dir / MODELS_CONFIG}: no version of it is served")
        before, versions = files.labels.get(name, {}), files.versions(entry)
        if missing := [number for number in numbers if number not in versions]:
            raise NoSuchVersion(f"{name} has no version {missing[0]} under its base_path in {MODELS_CONFIG}")
        labels = {label: number for label, number in {**before, **moved}.items() if number is not None}
        stable = before.get(STABLE, max(versions, default=None))
        if moved.get(STABLE) is not None and stable is not None:
            # A version that is stable only because it was the newest has replaced its predecessor.
            replaced = stable if labels[STABLE] != stable else None if STABLE in before else _before(stable, versions)
            labels |= {} if replaced is None else {PREVIOUS: replaced}
        kept = files.shares.get(name, {})
        # A split in a hand-written file may name what does not exist yet.
        _require_targets(name, kept.keys() & before.keys() if shares is None else shares, labels, versions)
        shares = kept if shares is None else shares
        files.labels[name], files.shares[name] = labels, shares
        if labels != before or shares != kept:
            # Serve a version before a label or a share points at it.
            files.set_policy(entry)
            files.write_config()
        if labels != before:
            files.write_labels()
        if shares != kept:
            files.write_shares()
        return before, labels


def _require_targets(name: str, targets: Collection[str], labels: Mapping[str, int], versions: Collection[int]) -> None:
    for target in targets:
        if int(target) not in versions if target.isdigit() else target not in {STABLE, *labels}:
            what = "version" if target.isdigit() else "label"
            raise RepositoryError(f"the traffic split of {name} names {what} {target}, which {name} does not have")


def earlier_stable(models_dir: Path, name: str) -> int:
    """Return the target version of a model's rollback; raise RepositoryError if there is none."""
    existing = [version.number for version in Repository(models_dir).named(name)]
    labels = next((entry.labels for entry in read_entries(models_dir) if entry.name == name), {})
    stable = labels.get(STABLE, existing[-1])
    # Without a promotion the newest version was stable, and before that its predecessor.
    earlier = labels.get(PREVIOUS) if STABLE in labels else _before(stable, existing)
    if earlier is None or earlier not in existing:
        raise RepositoryError(f"{name} has no stable version before {stable}: nothing to roll back to")
    return earlier


def _before(version: int, versions: Collection[int]) -> int | None:
    return max((number for number in versions if number < version), default=None)


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
    name, number = version.path.parent.name, version.number
    before, _ = move_labels(models_dir, name, {label: number})
    record_command("promote", model=f"{name}:{number}", label=label)
    _report(name, label, before.get(label), number)
    return 0


@click.command(cls=Command)
@click.argument("name")
@models_dir_option()
def rollback(models_dir: Path, name: str) -> int:
    """Make the previous stable version of a model stable again."""
    if ":" in name:
        raise RepositoryError(f"rollback takes NAME; to choose a version: sostenuto promote {name}")
    number = earlier_stable(models_dir, name)
    _, labels = move_labels(models_dir, name, {STABLE: number})
    record_command("rollback", model=f"{name}:{number}")
    _report(name, STABLE, labels[PREVIOUS], number)
    return 0


def _report(name: str, label: str, before: int | None, now: int) -> None:
    is_new = "" if before is None else f" (was {before})"
    print(f"{name}: {label} is " + (f"already version {now}" if before == now else f"now version {now}{is_new}"))
