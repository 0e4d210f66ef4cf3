"""`python -m export remove`: versions taken out of the repository, so that a model server never sees half of one.

Knows the order in which it must be done. Asks before it does anything.
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
from export.repository.models_config import drop_from_models_config, forget_versions, locked, read_listings
from export.repository.promotion import PREVIOUS
from export.repository.unloading import DEFAULT_WAIT_S, ServerWatch, wait_until_unloaded
from export.repository.versions import Repository, Version
from export.table import size

_PREFIX = ".removed-"
# Age at which the empty directory of a removed model is deleted, far above the time for which a server may look there.
_EMPTY_AGE_S = 3600.0


def remove(
    models_dir: Path, reference: str, *, yes: bool, wait_s: float = DEFAULT_WAIT_S, servers: Sequence[str] = ()
) -> int:
    """Remove a version, or a model with all its versions. Returns the exit code: 1 if a person said no.

    Args:
        models_dir: The repository.
        reference: NAME:VERSION, or NAME for all its versions.
        yes: Whether it was confirmed on the command line.
        wait_s: Seconds after which every model server has read `models.config` again and looked at its base paths.
        servers: HOST:PORT of model servers; once all of them have unloaded the model, the rest of the time is saved.

    Raises:
        RepositoryError: there is no such version, nobody can be asked, a server still serves the model, or its files
            cannot be deleted.
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
    _require_served(repository, home.name, versions)
    print(_plan(repository, home.name, versions))
    if not yes and not _is_confirmed():
        print("nothing is removed")
        return 1
    _delete_litter(models_dir)
    _delete_empty_directories(models_dir)
    _stop_serving(repository, home.name, versions, wait_s, servers)
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


def _require_served(repository: Repository, name: str, versions: Sequence[Version]) -> None:
    """Refuse to remove every version that an entry serves, if others stay: a server that starts would wait for one.

    Raises:
        RepositoryError: an entry would serve no version.
    """
    every = {version.number for version in repository.model(name).versions}
    kept = every - {version.number for version in versions}
    for entry in read_listings(repository.path):
        if kept and entry.folder == name and entry.served(every) and not entry.served_without(kept):
            raise RepositoryError(
                f"{MODELS_CONFIG} would serve no version of {entry.name}, and a model server does not start then: "
                f"its model_version_policy must choose one of {', '.join(map(str, sorted(kept)))} first"
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


def _stop_serving(
    repository: Repository, name: str, versions: Sequence[Version], wait_s: float, servers: Sequence[str]
) -> None:
    """Have no server look at a model's directory any more, if no version of it stays.

    Raises:
        RepositoryError: a server still serves the model after `wait_s`.
    """
    if not _is_all(repository, name, versions):
        return
    entries = [entry.name for entry in read_listings(repository.path) if entry.folder == name]
    watch = ServerWatch(servers, entries or [name])
    with locked(repository.path):
        # What was published since the question stays, and so does its entry.
        if not _is_all(repository, name, versions):
            return
        drop_from_models_config(repository.path, name)
    # Without the lock: another model may be published meanwhile.
    wait_until_unloaded(watch, name, wait_s)


def _is_all(repository: Repository, name: str, versions: Sequence[Version]) -> bool:
    """Return whether a model has no other versions than these."""
    return {version.path for version in repository.model(name).versions} <= {version.path for version in versions}


def _take_out(repository: Repository, home: Path, versions: Sequence[Version]) -> str:
    """Rename versions to what no server takes for one; of a model without versions the directory stays.

    Raises:
        RepositoryError: a version was promoted, or the model was listed again, in the meantime.
    """
    numbers = [version.path.name for version in versions]
    with locked(repository.path):
        # It may have been promoted since the question.
        _require_unlabelled(repository, home.name, versions)
        if _is_all(repository, home.name, versions) and any(
            entry.folder == home.name for entry in read_listings(repository.path)
        ):
            raise RepositoryError(f"{home.name} was put into {MODELS_CONFIG} again meanwhile: run the command again")
        # The oldest first: a server that has not read the config yet goes on with the newest.
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                (home / number).rename(home / f"{_PREFIX}{number}-{os.getpid()}")
        forget_versions(repository.path, home.name)
    return f"removed {', '.join(version.label for version in versions)}"


def _delete_litter(models_dir: Path) -> list[Path]:
    """Delete what was taken out, by this removal or by one that was killed.

    Returns:
        What cannot be deleted.
    """
    litter = sorted(models_dir.glob(f"*/{_PREFIX}*"))
    for path in litter:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
    return [path for path in litter if path.exists()]


def _delete_empty_directories(models_dir: Path) -> None:
    """Delete the directories that earlier removals have left empty, once no server looks at them any more."""
    with locked(models_dir):
        listed = {entry.folder for entry in read_listings(models_dir)}
        for home in models_dir.iterdir():
            if home.is_dir() and not home.is_symlink() and home.name not in listed:
                # Drafts, or what a person put there, stay.
                with contextlib.suppress(OSError):
                    if time.time() - home.stat().st_mtime >= _EMPTY_AGE_S:
                        home.rmdir()
