"""`python -m export remove`: versions taken out of the repository, so that a model server never sees half of one.

Knows the order in which it must be done. Asks before it does anything.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from contract.signatures import MODELS_CONFIG
from export.errors import RepositoryError
from export.repository.models_config import drop_from_models_config, forget_versions, locked, read_listings
from export.repository.promotion import PREVIOUS
from export.repository.versions import Repository, Version
from export.table import size

_PREFIX = ".removed-"


def remove(models_dir: Path, reference: str, *, yes: bool) -> int:
    """Remove a version, or a model with all its versions. Returns the exit code: 1 if a person said no.

    Args:
        models_dir: The repository.
        reference: NAME:VERSION, or NAME for all its versions.
        yes: Whether it was confirmed on the command line.

    Raises:
        RepositoryError: there is no such version, nobody can be asked, or its files cannot be deleted.
        PublishError: `models.config` cannot be parsed; then nothing is removed.
    """
    repository = Repository(models_dir)
    versions = repository.named(reference)
    home = versions[0].path.parent
    # Behind a link lies what is not the repository's.
    if home.is_symlink():
        raise RepositoryError(
            f"{home}: a link to {home.resolve()}; remove the link by hand, nothing behind it is touched"
        )
    _require_unlabelled(repository, home.name, versions)
    print(_plan(repository, home.name, versions))
    if not yes and not _is_confirmed():
        print("nothing is removed")
        return 1
    _delete_litter(models_dir)
    print(_take_out(repository, home, versions))
    left = _delete_litter(models_dir)
    if left:
        raise RepositoryError(f"{left[0]}: out of the repository, but it cannot be deleted")
    return 0


def _require_unlabelled(repository: Repository, name: str, versions: Sequence[Version]) -> None:
    """Refuse to remove what a label points at, if other versions stay.

    Raises:
        RepositoryError: one does.
    """
    gone = {version.number for version in versions}
    if gone >= {version.number for version in repository.model(name).versions}:
        return
    for entry in read_listings(repository.path):
        labels = sorted(label for label, version in entry.labels.items() if version in gone and label != PREVIOUS)
        if entry.folder == name and labels:
            raise RepositoryError(
                f"{versions[0].label} is {' and '.join(labels)} of {entry.name}: promote another version first "
                f"(python -m export promote {entry.name}:VERSION --label {labels[0]})"
            )


def _plan(repository: Repository, name: str, versions: Sequence[Version]) -> str:
    """Say what goes, and what is served of the model now and then."""
    every = [version.number for version in repository.model(name).versions]
    kept = [number for number in every if number not in {version.number for version in versions}]
    lines = [f"to be removed: {version.label}, {size(version.num_bytes())}" for version in versions]
    entries = [entry for entry in read_listings(repository.path) if entry.folder == name]
    for entry in entries:
        chosen = entry.served_without(kept)
        then = f"then {_numbers(chosen)}" if kept else f"then it is no longer in {MODELS_CONFIG}"
        called = "" if entry.name == name else f" as {entry.name}"
        lines.append(f"served of {name} now{called}: {_numbers(entry.served(every))}; {then}")
    if not entries:
        lines.append(f"{name} is not in {MODELS_CONFIG}: no version of it is served")
    return "\n".join(lines)


def _numbers(numbers: set[int]) -> str:
    if not numbers:
        return "no version"
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"


def _is_confirmed() -> bool:
    if not sys.stdin.isatty():
        raise RepositoryError("nothing is removed: there is no terminal to ask on; --yes confirms it")
    try:
        return input("remove? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _take_out(repository: Repository, home: Path, versions: Sequence[Version]) -> str:
    """Rename versions to what no server takes for one; before the last one goes, so does the entry of the model."""
    numbers = [version.path.name for version in versions]
    with locked(repository.path):
        # It may have been promoted since the question.
        _require_unlabelled(repository, home.name, versions)
        # What was published since the question stays, and so does its entry.
        there = {version.path.name for version in repository.model(home.name).versions}
        if there <= set(numbers):
            drop_from_models_config(repository.path, home.name)
        # The oldest first: a server that has not read the config yet goes on with the newest.
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                (home / number).rename(home / f"{_PREFIX}{number}-{os.getpid()}")
        forget_versions(repository.path, home.name)
    return f"removed {', '.join(version.label for version in versions)}"


def _delete_litter(models_dir: Path) -> list[Path]:
    """Delete what was taken out, by this removal or by one that was killed, and folders that are empty then.

    Returns:
        What cannot be deleted.
    """
    litter = sorted(models_dir.glob(f"*/{_PREFIX}*"))
    for path in litter:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    for home in {path.parent for path in litter}:
        # Drafts, or what a person put there, stay.
        with contextlib.suppress(OSError):
            home.rmdir()
    return [path for path in litter if path.exists()]
