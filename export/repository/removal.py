"""`sostenuto remove`: removes versions such that a model server never sees an incomplete one.

Knows the order of the steps. Asks for confirmation first.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from contract.signatures import MODELS_CONFIG
from export.errors import RepositoryError
from export.repository.models_config import drop_from_models_config, forget_versions, locked, read_entries
from export.repository.numbering import retire
from export.repository.promotion import PREVIOUS
from export.repository.unloading import DEFAULT_WAIT_S, ServerWatch, wait_until_unloaded
from export.repository.versions import Repository, Version
from export.terminal import file_size

_PREFIX = ".removed-"
# Minimum age at which the empty directory of a removed model is deleted: far longer than a server may still poll it.
_EMPTY_AGE_S = 3600.0


def remove(
    models_dir: Path, reference: str, *, yes: bool, wait_s: float = DEFAULT_WAIT_S, servers: Sequence[str] = ()
) -> int:
    """Remove a version, NAME:VERSION, or a model with all its versions. Returns 1 if it was not confirmed.

    After `wait_s` seconds every model server has reloaded `models.config` and polled its base paths; the wait ends
    early once all of the servers, HOST:PORT, have unloaded the model.

    Raises:
        RepositoryError: there is no such version, no terminal to ask for confirmation, a server still serves the model,
            or its files cannot be deleted.
        PublishError: `models.config` cannot be parsed; then nothing is removed.
    """
    repository = Repository(models_dir)
    versions = repository.named(reference)
    home = versions[0].path.parent
    # The target of a link is outside the repository.
    if home.is_symlink():
        raise RepositoryError(
            f"{home}: a link to {home.resolve()}; remove the link by hand, nothing behind it is touched"
        )
    _require_unlabelled(repository, home.name, versions)
    _require_served(repository, home.name, versions)
    print(_plan(repository, home.name, versions))
    if not yes and not _is_confirmed():
        print("nothing was removed")
        return 1
    _delete_renamed(models_dir)
    _delete_empty_directories(models_dir)
    _stop_serving(repository, home.name, versions, wait_s, servers)
    print(_rename_removed(repository, home, versions))
    undeleted = _delete_renamed(models_dir)
    if undeleted:
        raise RepositoryError(f"{undeleted[0]}: removed from the repository, but its files cannot be deleted")
    return 0


def _require_unlabelled(repository: Repository, name: str, versions: Sequence[Version]) -> None:
    """Check that no label points at a version to be removed, unless all versions are removed."""
    removed = {version.number for version in versions}
    if removed >= {version.number for version in repository.model(name).versions}:
        return
    for entry in read_entries(repository.path):
        labels = sorted(label for label, version in entry.labels.items() if version in removed and label != PREVIOUS)
        if entry.folder == name and labels:
            raise RepositoryError(
                f"{versions[0].label} is {' and '.join(labels)} of {entry.name}: promote another version first "
                f"(sostenuto promote {entry.name}:VERSION --label {labels[0]})"
            )


def _require_served(repository: Repository, name: str, versions: Sequence[Version]) -> None:
    """Check that each entry still serves a version, if any remain: otherwise a starting server would wait for one."""
    existing = {version.number for version in repository.model(name).versions}
    kept = existing - {version.number for version in versions}
    for entry in read_entries(repository.path):
        if kept and entry.folder == name and entry.policy.select(existing) and not entry.served_without(kept):
            raise RepositoryError(
                f"{MODELS_CONFIG} would serve no version of {entry.name}, and a model server does not start then: "
                f"its model_version_policy must choose one of {', '.join(map(str, sorted(kept)))} first"
            )


def _plan(repository: Repository, name: str, versions: Sequence[Version]) -> str:
    """Describe which versions are removed, and which are served before and after."""
    existing = [version.number for version in repository.model(name).versions]
    kept = [number for number in existing if number not in {version.number for version in versions}]
    lines = [f"to be removed: {version.label}, {file_size(version.num_bytes())}" for version in versions]
    entries = [entry for entry in read_entries(repository.path) if entry.folder == name]
    for entry in entries:
        served = entry.served_without(kept)
        then = f"{_numbers(served)} afterwards" if kept else f"afterwards it is no longer in {MODELS_CONFIG}"
        alias = "" if entry.name == name else f" as {entry.name}"
        lines.append(f"served of {name}{alias}: {_numbers(entry.policy.select(existing))} now; {then}")
    if not entries:
        lines.append(f"{name} is not in {MODELS_CONFIG}: no version of it is served")
    return "\n".join(lines)


def _numbers(numbers: set[int]) -> str:
    if not numbers:
        return "no version"
    return f"version{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"


def _is_confirmed() -> bool:
    if not sys.stdin.isatty():
        raise RepositoryError("nothing was removed: there is no terminal to confirm on; pass --yes")
    try:
        return input("remove? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        print()
        return False


def _stop_serving(
    repository: Repository, name: str, versions: Sequence[Version], wait_s: float, servers: Sequence[str]
) -> None:
    """Make every server stop polling a model's directory, if no version of the model remains."""
    if not _is_all(repository, name, versions):
        return
    entries = [entry.name for entry in read_entries(repository.path) if entry.folder == name]
    watch = ServerWatch(servers, entries or [name])
    with locked(repository.path):
        # A version published since the confirmation stays, and so does the entry.
        if not _is_all(repository, name, versions):
            return
        drop_from_models_config(repository.path, name)
    # Wait without the lock, so that other models can be published meanwhile.
    wait_until_unloaded(watch, name, wait_s)


def _is_all(repository: Repository, name: str, versions: Sequence[Version]) -> bool:
    """Return whether these are all versions of a model."""
    return {version.path for version in repository.model(name).versions} <= {version.path for version in versions}


def _rename_removed(repository: Repository, home: Path, versions: Sequence[Version]) -> str:
    """Rename versions so that no server treats them as versions; the directory of a model without versions stays.

    Raises:
        RepositoryError: a version was promoted, or the model was listed again, in the meantime.
    """
    numbers = [version.path.name for version in versions]
    with locked(repository.path):
        # A version may have been promoted since the confirmation.
        _require_unlabelled(repository, home.name, versions)
        if _is_all(repository, home.name, versions) and any(
            entry.folder == home.name for entry in read_entries(repository.path)
        ):
            raise RepositoryError(f"{home.name} was added to {MODELS_CONFIG} again meanwhile: run the command again")
        existing = {version.number for version in repository.model(home.name).versions}
        removed = {version.number for version in versions}
        retire(home, removed, existing - removed)
        # The oldest first: a server that has not reloaded the config yet keeps serving the newest.
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                (home / number).rename(home / f"{_PREFIX}{number}-{os.getpid()}")
        forget_versions(repository.path, home.name)
    return f"removed {', '.join(version.label for version in versions)}"


def _delete_renamed(models_dir: Path) -> list[Path]:
    """Delete renamed versions of this removal and of killed ones; return the paths that cannot be deleted."""
    renamed = sorted(models_dir.glob(f"*/{_PREFIX}*"))
    for path in renamed:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    return [path for path in renamed if path.exists()]


def _delete_empty_directories(models_dir: Path) -> None:
    """Delete the empty directories of earlier removals, once no server polls them any more."""
    with locked(models_dir):
        listed = {entry.folder for entry in read_entries(models_dir)}
        for home in models_dir.iterdir():
            if home.is_dir() and not home.is_symlink() and home.name not in listed:
                # `rmdir` fails if there are drafts or other files, which stay.
                with contextlib.suppress(OSError):
                    if time.time() - home.stat().st_mtime >= _EMPTY_AGE_S:
                        home.rmdir()
