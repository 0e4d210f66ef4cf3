"""The model repository on disk: its models, their versions, and the resolution of `NAME:VERSION`.

Knows the layout of directories and versions. Changes nothing; does not know tables or options. Imports no TensorFlow.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from contract.card import ID_PATTERN, GeneratorCard, load_assets
from contract.errors import ContractError
from contract.tokenizer import Tokenizer
from export.errors import RepositoryError, first_problem

SAVED_MODEL = "saved_model.pb"
# Maximum number of names in an error message.
_MAX_NAMED = 20


@dataclass(frozen=True)
class Version:
    """The directory of a version, which may be damaged.

    Attributes:
        label: Name in messages: `name:version`, or the requested path.
    """

    path: Path
    label: str

    @property
    def number(self) -> int:
        """Number of a version in the repository."""
        return int(self.path.name)

    def read(self) -> tuple[GeneratorCard, Tokenizer]:
        """Read the card and the tokenizer.

        Raises:
            RepositoryError: one of them is missing, damaged or of another format; the message is one line and names the
                file.
        """
        try:
            return load_assets(self.path)
        except ContractError as error:
            raise RepositoryError(_in_one_line(error)) from error

    def has_saved_model(self) -> bool:
        """Return whether its SavedModel exists and can be read."""
        return os.access(self.path / SAVED_MODEL, os.R_OK)

    def num_bytes(self) -> int:
        """Return the total size of the files in bytes."""
        total = 0
        for path in self.path.rglob("*"):
            # The file may be removed concurrently.
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
        return total


@dataclass(frozen=True)
class Model:
    """The directory of a model.

    Attributes:
        versions: Sorted by number, the newest last.
        problem: Why the versions cannot be listed; else empty.
    """

    name: str
    path: Path
    versions: tuple[Version, ...]
    problem: str = ""


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
        folders = sorted(path for path in self.path.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [model for model in map(_model, folders) if model.versions or model.problem]

    def model(self, name: str) -> Model:
        """Return a model that has a version.

        Raises:
            RepositoryError: there is no such model; the message names the existing ones.
        """
        models = self.models()
        match = next((model for model in models if model.name == name), None)
        if match is None:
            existing = f"it has {_join_names(model.name for model in models)}" if models else "it has no model yet"
            raise RepositoryError(f"no model {name!r} in {self.path}; {existing}")
        if match.problem:
            raise RepositoryError(f"{match.path}: {match.problem}")
        return match

    def find(self, reference: str) -> Version:
        """Resolve a reference: NAME:VERSION, NAME for the newest version, or the directory of a version.

        Raises:
            RepositoryError: there is no such version; the message names the existing ones.
        """
        # No name contains a slash or begins with a dot.
        if "/" in reference or reference.startswith("."):
            return _version_at(Path(reference))
        return self.named(reference)[-1]

    def named(self, reference: str) -> tuple[Version, ...]:
        """Return the version NAME:VERSION, or all versions of NAME; raise as `find`."""
        name, colon, number = reference.partition(":")
        if not re.fullmatch(ID_PATTERN, name) or (colon and not _is_number(number)):
            raise RepositoryError(f"a model is NAME or NAME:VERSION, such as book or book:3, got {reference!r}")
        versions = self.model(name).versions
        if not colon:
            return versions
        matches = tuple(version for version in versions if version.number == int(number))
        if not matches:
            existing = _join_names(str(version.number) for version in versions)
            raise RepositoryError(f"{name} has no version {number} in {self.path}; it has {existing}")
        return matches


def _model(path: Path) -> Model:
    try:
        folders = [folder for folder in path.iterdir() if _is_number(folder.name) and folder.is_dir()]
    except OSError as error:
        return Model(path.name, path, (), error.strerror or str(error))
    folders.sort(key=lambda folder: (int(folder.name), folder.name))
    return Model(path.name, path, tuple(Version(folder, f"{path.name}:{folder.name}") for folder in folders))


def _version_at(path: Path) -> Version:
    if not path.is_dir():
        raise RepositoryError(f"{path}: no such version directory")
    numbers = [version.path.name for version in _model(path).versions]
    if numbers:
        raise RepositoryError(
            f"{path}: a model directory, not a version directory; its versions are {_join_names(numbers)}"
        )
    return Version(path, str(path))


def _is_number(text: str) -> bool:
    # TensorFlow Serving accepts no version of more digits, and Python parses no number of 5,000 digits.
    return text.isascii() and text.isdigit() and len(text) < 20


def _join_names(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _MAX_NAMED:,} more" if len(all_names) > _MAX_NAMED else ""
    return ", ".join(all_names[:_MAX_NAMED]) + more


def _in_one_line(error: ContractError) -> str:
    """Describe a damaged file in one line; pydantic's message has several."""
    message, cause = " ".join(str(error).split()), error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}"
    if not isinstance(cause, ValidationError):
        return message
    return f"{message.partition(' (')[0]} ({first_problem(cause)})"
