"""The model repository as it lies on the disk: its models, their versions, and which one `NAME:VERSION` means.

Knows folders, and where a version keeps what. Changes nothing, and knows no table and no option. Imports no TensorFlow.
"""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from contract.card import ID_PATTERN, GeneratorCard, load_assets
from contract.errors import ContractError
from contract.tokenizer import Tokenizer
from export.errors import RepositoryError

SAVED_MODEL = "saved_model.pb"
# Names in a message: more would hide what it says.
_MAX_NAMED = 20


@dataclass(frozen=True)
class Version:
    """A version's folder, which may be damaged.

    Attributes:
        label: What to call it: `name:version`, or the path that was asked for.
    """

    path: Path
    label: str

    @property
    def number(self) -> int:
        """Its number, for a version that lies in the repository."""
        return int(self.path.name)

    def read(self) -> tuple[GeneratorCard, Tokenizer]:
        """Read the card and the tokenizer.

        Raises:
            RepositoryError: one of them is missing, damaged or of another format; a line that names the file.
        """
        try:
            return load_assets(self.path)
        except ContractError as error:
            raise RepositoryError(_in_one_line(error)) from error

    def num_bytes(self) -> int:
        """Return the size of its files."""
        total = 0
        for path in self.path.rglob("*"):
            # It may be removed meanwhile.
            with contextlib.suppress(OSError):
                total += path.lstat().st_size if path.is_file() else 0
        return total


@dataclass(frozen=True)
class Model:
    """A model's folder.

    Attributes:
        versions: By their numbers, the newest last.
        problem: Why they are not known; else empty.
    """

    name: str
    path: Path
    versions: tuple[Version, ...]
    problem: str = ""


class Repository:
    """`models/`: a folder for each model, and in it one for each version."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def models(self) -> list[Model]:
        """Return the models by their names; a folder that is not there has none.

        Raises:
            OSError: it is no folder, or may not be read.
        """
        if not self.path.exists():
            return []
        folders = sorted(path for path in self.path.iterdir() if path.is_dir() and not path.name.startswith("."))
        return [model for model in map(_model, folders) if model.versions or model.problem]

    def model(self, name: str) -> Model:
        """Return a model that has a version.

        Raises:
            RepositoryError: there is none of that name; the message names those that are.
        """
        models = self.models()
        found = next((model for model in models if model.name == name), None)
        if found is None:
            there = f"it has {_some(model.name for model in models)}" if models else "it has no model yet"
            raise RepositoryError(f"no model {name!r} in {self.path}; {there}")
        if found.problem:
            raise RepositoryError(f"{found.path}: {found.problem}")
        return found

    def find(self, reference: str) -> Version:
        """Return the version that a reference means: NAME:VERSION, NAME for the newest, or a version's folder.

        Raises:
            RepositoryError: it means none; the message says what there is.
        """
        # No name holds a slash or begins with a dot.
        if "/" in reference or reference.startswith("."):
            return _at(Path(reference))
        return self.named(reference)[-1]

    def named(self, reference: str) -> tuple[Version, ...]:
        """Return the version that NAME:VERSION means, or every version of NAME.

        Raises:
            RepositoryError: it means none; the message says what there is.
        """
        name, colon, number = reference.partition(":")
        if not re.fullmatch(ID_PATTERN, name) or (colon and not _is_number(number)):
            raise RepositoryError(f"a model is NAME or NAME:VERSION, such as book or book:3, got {reference!r}")
        versions = self.model(name).versions
        if not colon:
            return versions
        found = tuple(version for version in versions if version.number == int(number))
        if not found:
            there = _some(str(version.number) for version in versions)
            raise RepositoryError(f"{name} has no version {number} in {self.path}; it has {there}")
        return found


def _model(path: Path) -> Model:
    try:
        folders = [folder for folder in path.iterdir() if _is_number(folder.name) and folder.is_dir()]
    except OSError as error:
        return Model(path.name, path, (), error.strerror or str(error))
    folders.sort(key=lambda folder: (int(folder.name), folder.name))
    return Model(path.name, path, tuple(Version(folder, f"{path.name}:{folder.name}") for folder in folders))


def _at(path: Path) -> Version:
    if not path.is_dir():
        raise RepositoryError(f"{path}: no such folder of a version")
    numbers = [version.path.name for version in _model(path).versions]
    if numbers:
        raise RepositoryError(f"{path}: the folder of a model, not of a version; its versions are {_some(numbers)}")
    return Version(path, str(path))


def _is_number(text: str) -> bool:
    # More digits are no version to TensorFlow Serving, and Python reads no number of 5,000.
    return text.isascii() and text.isdigit() and len(text) < 20


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _MAX_NAMED:,} more" if len(every) > _MAX_NAMED else ""
    return ", ".join(every[:_MAX_NAMED]) + more


def _in_one_line(error: ContractError) -> str:
    """Tell a damaged file in a line; what pydantic says of it has several."""
    told, cause = " ".join(str(error).split()), error.__cause__
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}"
    if not isinstance(cause, ValidationError):
        return told
    problem = cause.errors()[0]
    field = ".".join(map(str, problem["loc"]))
    return f"{told.partition(' (')[0]} ({field}{': ' if field else ''}{problem['msg']})"
