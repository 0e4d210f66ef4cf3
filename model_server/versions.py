"""Version directories, and the next load or unload on the way to the versions to be served.

Knows directory names and TensorFlow Serving's availability-preserving policy. Loads nothing and has no state.
"""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_MAX_VERSION = 2**63 - 1


class Step(NamedTuple):
    """What to do next, and with which version."""

    action: Literal["load", "unload"]
    version: int


@dataclass(frozen=True)
class Scan:
    """The content of a base path.

    Attributes:
        versions: Directory of each version.
        problems: One line per ignored entry.
    """

    versions: dict[int, Path]
    problems: tuple[str, ...]


def scan(base_path: Path) -> Scan:
    """Find the versions under a base path.

    Raises:
        OSError: the directory is missing or unreadable, so its versions are unknown.
    """
    versions: dict[int, Path] = {}
    problems = []
    for path in sorted(base_path.iterdir()):
        if path.name.startswith("."):
            # Of the exporter: a draft, or a file of its own.
            continue
        version = int(path.name) if path.name.isascii() and path.name.isdigit() else -1
        try:
            has_saved_model = any((path / file).is_file() for file in SAVED_MODEL_FILES)
        except PermissionError as error:
            # Of this entry only. After another error, such as one of NFS, a version that is served must not seem gone.
            problems.append(f"{path}: {error.strerror}")
            continue
        if not 0 <= version <= _MAX_VERSION:
            problems.append(f"{path}: not a version, its name is not a number")
        elif not has_saved_model:
            problems.append(f"{path}: not a version (yet), it has no {SAVED_MODEL_FILES[0]}")
        else:
            if version in versions:
                problems.append(f"{versions[version]}: skipped, {path.name} is the same version")
            # As in TensorFlow Serving, the last one by name: without leading zeros.
            versions[version] = path
    # A directory that was renamed or unmounted meanwhile seems to have no versions, and all would be unloaded.
    base_path.stat()
    return Scan(versions, tuple(problems))


def next_step(wanted: Set[int], available: Set[int], loadable: Set[int]) -> Step | None:
    """Return the next step towards the wanted versions that keeps the model available.

    An unwanted version is unloaded once a wanted one is available, or when no version is wanted. Until then the newest
    unwanted version stays, so a new version that fails to load causes no outage. `loadable` are the wanted versions
    that are due: not loaded, not failed for good, and not waiting for a retry.
    """
    unwanted = available - wanted
    if unwanted and (not wanted or wanted & available or len(unwanted) > 1):
        return Step("unload", min(unwanted))
    if loadable:
        return Step("load", max(loadable))
    return None
