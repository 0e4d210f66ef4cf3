"""`sostenuto list`: every version of the model repository in a table, the damaged ones too.

Knows the columns. Changes nothing.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contract import signatures
from export.config import MODELS
from export.errors import PublishError, RepositoryError
from export.repository.card_metrics import architecture, reported
from export.repository.models_config import ConfigEntry, read_entries
from export.repository.versions import SAVED_MODEL, Model, Repository, Version
from export.terminal import (
    NOTHING,
    Column,
    file_size,
    format_number,
    terminal_width,
    text_table,
    to_json,
    utc_time,
    visible,
)

_COLUMNS = (
    Column("MODEL"),
    Column("VERSION", right=True),
    Column("UNIT", rank=1),
    Column("ARCHITECTURE"),
    Column("PARAMETERS", right=True, rank=2),
    Column("LOSS", right=True),
    Column("BITS/CHAR", right=True),
    Column("SIZE", right=True, rank=3),
    Column("CREATED (UTC)", rank=4),
    Column("SERVED"),
)


@dataclass(frozen=True)
class Row:
    """A row of the list; None stands for an unknown value.

    Attributes:
        listed: Whether `models.config` has an entry for the model; None if that file cannot be read.
        served: Whether the entry's version policy selects this version.
        labels: Labels that point at this version.
        problem: Why the version cannot be read.
    """

    name: str
    version: int | None
    path: str
    unit: str | None = None
    architecture: str | None = None
    direction: str | None = None
    vocab_size: int | None = None
    parameters: int | None = None
    validation_loss: float | None = None
    bits_per_character: float | None = None
    size_bytes: int | None = None
    created: int | None = None
    listed: bool | None = None
    served: bool | None = None
    labels: tuple[str, ...] = ()
    problem: str | None = None

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        start = [visible(self.name), format_number(self.version, "d")]
        if self.problem is not None:
            return [*start, f"cannot be read: {visible(self.problem)}"]
        chosen = ", ".join(["yes", *self.labels]) if self.served else "not chosen"
        served = {None: "unknown", False: "not listed"}.get(self.listed, chosen)
        return [
            *start,
            self.unit or NOTHING,
            visible(self.architecture),
            format_number(self.parameters, ",d"),
            format_number(self.validation_loss, ".3f"),
            format_number(self.bits_per_character, ".3f"),
            file_size(self.size_bytes or 0),
            utc_time(self.created or 0),
            served,
        ]


def list_versions(models_dir: Path, *, as_json: bool) -> int:
    """Print all versions of the repository. Returns the exit code.

    Raises:
        OSError: the repository is not a directory or cannot be read.
    """
    models = Repository(models_dir).models()
    try:
        config_entries, problem = read_entries(models_dir), None
    except (PublishError, OSError) as error:
        config_entries, problem = None, str(error)
    rows = [row for model in models for row in _rows(model, config_entries)]
    rows += _missing(models_dir, {model.name for model in models}, config_entries or [])
    if as_json:
        print(to_json({"models_dir": str(models_dir), "problem": problem, "versions": [asdict(row) for row in rows]}))
        return 0
    for line in _table(rows, models_dir):
        print(line)
    if problem:
        print(f"served versions are unknown: {visible(problem)}")
    return 0


def _table(rows: list[Row], models_dir: Path) -> Iterator[str]:
    if rows:
        yield from text_table(_COLUMNS, [row.cells() for row in rows], terminal_width())
        return
    command = ["sostenuto", "train", "book.txt"]
    elsewhere = [] if models_dir == MODELS else ["--models-dir", str(models_dir)]
    yield f"{models_dir} has no model yet; train one with:  {shlex.join([*command, *elsewhere])}"


def _rows(model: Model, config_entries: list[ConfigEntry] | None) -> Iterator[Row]:
    entries = None if config_entries is None else [entry for entry in config_entries if entry.folder == model.name]
    numbers = [version.number for version in model.versions if version.has_saved_model()]
    served = set[int]().union(*(entry.policy.select(numbers) for entry in entries or ()))
    if model.problem:
        yield Row(model.name, None, str(model.path), problem=model.problem)
    for version in model.versions:
        labels = [
            label for entry in entries or () for label, number in entry.labels.items() if number == version.number
        ]
        yield _row(
            version,
            name=model.name,
            listed=None if entries is None else bool(entries),
            served=None if entries is None else version.number in served,
            labels=tuple(sorted(labels)),
        )


def _row(version: Version, *, name: str, **fields: Any) -> Row:
    row = Row(name, version.number, str(version.path), size_bytes=version.num_bytes(), **fields)
    try:
        card, _ = version.read()
    except RepositoryError as error:
        return replace(row, problem=str(error).removeprefix(str(version.path)).lstrip("/: "))
    if not version.has_saved_model():
        reason = "Permission denied" if (version.path / SAVED_MODEL).exists() else "No such file"
        return replace(row, problem=f"{SAVED_MODEL}: {reason}")
    return replace(
        row,
        unit=card.unit,
        architecture=architecture(card),
        direction=card.direction,
        vocab_size=card.vocab_size,
        parameters=reported(card, "parameters"),
        validation_loss=reported(card, "validation_loss"),
        bits_per_character=reported(card, "bits_per_character"),
        created=card.created,
    )


def _missing(models_dir: Path, names: set[str], config_entries: list[ConfigEntry]) -> Iterator[Row]:
    """Yield a row for each listed model without a version; a model server waits for it."""
    for entry in config_entries:
        if entry.folder is not None and entry.folder not in names:
            problem = f"{signatures.MODELS_CONFIG} lists it, but it has no version"
            yield Row(entry.folder, None, str(models_dir / entry.folder), listed=True, served=False, problem=problem)
