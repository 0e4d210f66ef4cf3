"""Version folders and policies: which versions should be served, and what to do next to get there.

Knows folder names and TensorFlow Serving's availability-preserving rule. Loads nothing and keeps nothing.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_MAX_VERSION = 2**63 - 1


@dataclass(frozen=True)
class Latest:
    """Serve the versions with the highest numbers."""

    num_versions: int = 1


@dataclass(frozen=True)
class All:
    """Serve every version."""


@dataclass(frozen=True)
class Specific:
    """Serve these versions, where they exist."""

    versions: frozenset[int]


Policy = Latest | All | Specific


@dataclass(frozen=True)
class Load:
    """Load this version next."""

    version: int


@dataclass(frozen=True)
class Unload:
    """Unload this version next."""

    version: int


@dataclass(frozen=True)
class Scan:
    """What a base path holds.

    Attributes:
        versions: Folder of each version.
        problems: One line for each entry that was passed over.
    """

    versions: dict[int, Path]
    problems: tuple[str, ...]


def scan(base_path: Path) -> Scan:
    """Look for the versions under a base path.

    Raises:
        OSError: the folder is missing or cannot be read, which says nothing about its versions.
    """
    versions: dict[int, Path] = {}
    problems = []
    for path in sorted(base_path.iterdir()):
        version = int(path.name) if path.name.isascii() and path.name.isdigit() else -1
        if not 0 <= version <= _MAX_VERSION:
            problems.append(f"{path}: not a version, its name is not a number")
        elif not any((path / file).is_file() for file in SAVED_MODEL_FILES):
            problems.append(f"{path}: not a version (yet), it has no {SAVED_MODEL_FILES[0]}")
        elif version in versions:
            problems.append(f"{path}: passed over, {versions[version].name} is the same version")
        else:
            versions[version] = path
    return Scan(versions, tuple(problems))


def aspired(policy: Policy, found: Iterable[int]) -> frozenset[int]:
    """Return the versions that a policy wants of those that exist."""
    match policy:
        case Latest(num_versions):
            return frozenset(sorted(found)[-num_versions:])
        case Specific(versions):
            return frozenset(found) & versions
        case All():
            return frozenset(found)


def missing(policy: Policy, found: Iterable[int]) -> Iterator[int]:
    """Yield the versions that a policy names and that do not exist."""
    if isinstance(policy, Specific):
        yield from sorted(policy.versions - frozenset(found))


def next_step(wanted: Set[int], available: Set[int], loadable: Set[int]) -> Load | Unload | None:
    """Choose one step towards the wanted versions, without leaving the model unserved on the way.

    An unwanted version goes once a wanted one is available, or when none is wanted at all. Until then the newest of
    the unwanted stays, so a new version that fails to load never leaves a gap.

    Args:
        wanted: What the policy asks for.
        available: What is being served.
        loadable: Those of `wanted` that may be loaded now; those that have failed are not among them.
    """
    unwanted = available - wanted
    if unwanted and (not wanted or wanted & available or len(unwanted) > 1):
        return Unload(min(unwanted))
    if loadable:
        return Load(max(loadable))
    return None
