"""The model repository on disk: its models, their versions, the resolution of `NAME:VERSION`, and version numbers."""

import contextlib
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from contract.card import ID_PATTERN, GeneratorCard, load_assets
from contract.errors import ContractError
from contract.files import write_atomically
from contract.models_config import version_number, version_numbers
from contract.tokenizers import Tokenizer
from export.errors import NoSuchVersion, RepositoryError

SAVED_MODEL = "saved_model.pb"
# In its assets: the Keras model, for notebooks and further training.
KERAS_FILE = "model.keras"
# In a model's directory: the highest removed number. Model servers ignore names that are not numbers.
LAST_REMOVED_FILE = ".last-removed"
# Maximum number of names in an error message.
_MAX_NAMED = 20


@dataclass(frozen=True)
class Version:
    """The directory of a version, which may be damaged."""

    path: Path
    label: str  # name in messages: `name:version`, or the requested path

    @property
    def number(self) -> int:
        return int(self.path.name)

    def read(self) -> tuple[GeneratorCard, Tokenizer]:
        """Read the card and the tokenizer.

        Raises:
            RepositoryError: one is missing, damaged or of another format; the message is one line with the file.
        """
        try:
            return load_assets(self.path)
        except ContractError as error:
            raise RepositoryError(str(error)) from error

    def has_saved_model(self) -> bool:
        """Return whether its SavedModel exists and can be read."""
        return os.access(self.path / SAVED_MODEL, os.R_OK)

    def num_bytes(self) -> int:
        total = 0
        for path in self.path.rglob("*"):
            # The file may be removed concurrently.
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
        return total


@dataclass(frozen=True)
class Model:
    """The directory of a model."""

    name: str
    path: Path
    versions: tuple[Version, ...]  # sorted by number, the newest last
    problem: str = ""  # why they cannot be listed

    @classmethod
    def at(cls, path: Path) -> "Model":
        """List the versions in a directory."""
        try:
            folders = [each for each in path.iterdir() if version_number(each.name) is not None and each.is_dir()]
        except OSError as error:
            return cls(path.name, path, (), error.strerror or str(error))
        folders.sort(key=lambda folder: (int(folder.name), folder.name))
        return cls(path.name, path, tuple(Version(folder, f"{path.name}:{folder.name}") for folder in folders))


class Repository:
    """Model repository `models/`: one directory per model, and in it one per version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def models(self) -> list[Model]:
        """Return the models sorted by name; a missing repository has none.

        Raises:
            OSError: the repository is not a directory or cannot be read.
        """
        if not self.path.exists():
            return []
        # Other names are hidden directories, or the file system's own, such as `lost+found`.
        named = (path for path in self.path.iterdir() if re.fullmatch(ID_PATTERN, path.name))
        folders = sorted(path for path in named if path.is_dir())
        return [model for model in map(Model.at, folders) if model.versions or model.problem]

    def model(self, name: str) -> Model:
        """Return a model that has a version.

        Raises:
            NoSuchVersion: there is no such model; the message names the existing ones.
            RepositoryError: its directory cannot be read.
        """
        models = self.models()
        match = next((model for model in models if model.name == name), None)
        if match is None:
            existing = f"it has {_join_names(model.name for model in models)}" if models else "it has no model yet"
            raise NoSuchVersion(f"no model {name!r} in {self.path}; {existing}")
        if match.problem:
            raise RepositoryError(f"{match.path}: {match.problem}")
        return match

    def find(self, reference: str) -> Version:
        """Resolve a reference: NAME:VERSION, NAME for the newest version, or the directory of a version.

        Raises:
            RepositoryError: there is no such version; the message names the existing ones.
        """
        # No name contains a slash or begins with a dot.
        if "/" not in reference and not reference.startswith("."):
            return self.named(reference)[-1]
        path = Path(reference)
        if not path.is_dir():
            raise RepositoryError(f"{path}: no such version directory")
        if numbers := [version.path.name for version in Model.at(path).versions]:
            raise RepositoryError(
                f"{path}: a model directory, not a version directory; its versions are {_join_names(numbers)}"
            )
        return Version(path, str(path))

    def named(self, reference: str) -> tuple[Version, ...]:
        """Return the version NAME:VERSION, or all versions of NAME; raise as `find`."""
        name, colon, number = reference.partition(":")
        if not re.fullmatch(ID_PATTERN, name) or (colon and version_number(number) is None):
            raise RepositoryError(f"a model is NAME or NAME:VERSION, such as book or book:3, got {reference!r}")
        versions = self.model(name).versions
        if not colon:
            return versions
        matches = tuple(version for version in versions if version.number == version_number(number))
        if not matches:
            existing = _join_names(str(version.number) for version in versions)
            raise NoSuchVersion(f"{name} has no version {number} in {self.path}; it has {existing}")
        return matches


def next_version(home: Path) -> int:
    """Return the number of the next version in a model's directory.

    While other versions remain, the number of a removed one is not reused: a model server that polls the directory
    would see the same numbers, and keep serving the removed version under the number of the new one. If none remains, a
    removal waits until servers have unloaded the model, and numbers start at 1 again.
    """
    # In this order: a concurrent removal records the number before it renames the version.
    return max([*version_numbers(home), _last_removed(home)]) + 1


def retire(home: Path, removed: Collection[int], remaining: Collection[int]) -> None:
    """Record for `next_version` that versions are about to be removed. The caller holds the lock.

    Raises:
        OSError: the record cannot be written.
    """
    path = home / LAST_REMOVED_FILE
    if not remaining:
        path.unlink(missing_ok=True)
    elif max(removed) > max(remaining):
        write_atomically(path, f"{max([_last_removed(home), *removed])}\n")


def _last_removed(home: Path) -> int:
    try:
        return int((home / LAST_REMOVED_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return 0


def _join_names(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _MAX_NAMED:,} more" if len(all_names) > _MAX_NAMED else ""
    return ", ".join(all_names[:_MAX_NAMED]) + more
