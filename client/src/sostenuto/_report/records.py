"""Records to report on: texts, and the columns of table rows."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sostenuto._errors import InvalidArgument
from sostenuto._responses import json_or_none

if TYPE_CHECKING:
    from _csv import Reader

Row = list["str | None"]
MAX_RECORD_CHARACTERS = 16 * 2**20  # of a field of CSV, as in training


class InvalidInput(InvalidArgument):
    """An argument of a report is invalid.

    Attributes:
        param: str. The argument: `generated`, `training`, `held_out`, `pattern` or `json_schema`.
    """

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class Records:
    """A list of records; `rows` are their fields, None for a record that is not a row of the table."""

    name: str  # in the report, such as that of their file
    texts: list[str]
    columns: tuple[str, ...] = ()  # their names; empty if the records are texts alone
    rows: list[Row | None] = field(default_factory=list)  # one per text if there are columns; a missing value is None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Records:
        rows = [self.rows[index] for index in indices] if self.columns else []
        return Records(self.name, [self.texts[index] for index in indices], self.columns, rows)

    def sample(self, size: int, seed: int) -> Records:
        """Return `size` records without replacement, or all if there are no more; the order stays."""
        if size >= len(self):
            return self
        return self.take(sorted(random.Random(seed).sample(range(len(self)), size)))

    def values(self, column: int) -> list[str | None]:
        """Return the values of a column of the records that are rows."""
        return [row[column] for row in self.rows if row is not None]


def records_of(name: str, values: Sequence[Any], columns: tuple[str, ...] = ()) -> Records:
    """Return records that are given as texts (str) or as objects of fields (dict).

    `columns` are the names of the columns of texts that are lines of CSV.

    Raises:
        InvalidArgument: there are none, or they are of other types.
    """
    if isinstance(values, str):
        raise InvalidArgument(f"{name} must be a list of records or a Path, got the str {values[:60]!r}")
    if not values:
        raise InvalidArgument(f"{name} must have at least one record, got none")
    if all(isinstance(value, str) for value in values):
        return with_columns(Records(name, [with_line_feeds(value) for value in values]), columns)
    if not all(isinstance(value, dict) for value in values):
        raise InvalidArgument(f"{name} must be a list of str or a list of dict, got both or others")
    # The columns of a data frame without a header are numbers.
    named = [{str(key): field for key, field in value.items()} for value in values]
    columns = tuple(dict.fromkeys(key for value in named for key in value))
    try:
        texts = [json.dumps(value, ensure_ascii=False) for value in named]
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name} must have values that JSON has: {error}") from error
    return Records(name, texts, columns, [object_row(value, columns) for value in named])


def with_columns(records: Records, columns: tuple[str, ...], like: Records | None = None) -> Records:
    """Parse texts as rows of a table: as JSON objects if `like`, records of the same table, has any, otherwise as CSV.

    Lines of CSV have no header. Records that have columns are returned as they are.
    """
    if records.columns or not columns:
        return records
    parse: Callable[[str, tuple[str, ...]], Row | None] = _json_row if like and _has_objects(like) else _csv_row
    return Records(records.name, records.texts, columns, [parse(text, columns) for text in records.texts])


def _has_objects(records: Records) -> bool:
    return isinstance(json_or_none(records.texts[0]), dict)


def with_equal_texts(records: Records, like: Records) -> Records:
    """Return records whose texts are equal where their rows are, whatever their format and order of columns was.

    `like` has the columns, and the format of the texts.
    """
    is_json = _has_objects(like)

    def text_of(row: Row) -> str:
        if is_json:
            return json.dumps(dict(zip(like.columns, row, strict=True)), ensure_ascii=False)
        return csv_line("" if value is None else value for value in row)

    pairs = zip(records.texts, records.rows, strict=True)
    return replace(records, texts=[text if row is None else text_of(row) for text, row in pairs])


def _csv_row(text: str, columns: tuple[str, ...]) -> Row | None:
    try:
        rows = list(csv_reader([text]))
    except csv.Error:
        return None
    if len(rows) != 1 or len(rows[0]) != len(columns):
        return None
    return [value or None for value in rows[0]]


def _json_row(text: str, columns: tuple[str, ...]) -> Row | None:
    fields = json_or_none(text)
    return object_row(fields, columns) if isinstance(fields, dict) else None


def object_row(fields: dict[str, Any], columns: tuple[str, ...]) -> Row:
    """Return the values of a JSON object by column; numbers, lists and objects as JSON."""
    return [_as_text(fields.get(name)) for name in columns]


def csv_reader(lines: Iterable[str]) -> Reader:
    """Return a reader of CSV whose fields may be as long as a record; Python's own limit is 131,072 characters."""
    csv.field_size_limit(MAX_RECORD_CHARACTERS)
    return csv.reader(lines, strict=True)


def csv_line(row: Iterable[object]) -> str:
    """Return a row as a line of CSV, without a line end."""
    line = io.StringIO()
    csv.writer(line).writerow(row)  # ends with CRLF: before Python 3.13 it quotes only line breaks of its own end
    return line.getvalue().removesuffix("\r\n")


def require_same_columns(param: str, records: Records, columns: tuple[str, ...]) -> Records:
    """Return records with the columns of a table, in its order; raise InvalidInput if one is missing."""
    if records.columns == columns:
        return records
    missing = [name for name in columns if name not in records.columns]
    if missing:
        found = ", ".join(records.columns)[:200]
        message = f"{records.name} must have the column {missing[0]!r} of the training file, got {found}"
        raise InvalidInput(message, param)
    places = [records.columns.index(name) for name in columns]
    rows = [row and [row[place] for place in places] for row in records.rows]
    return Records(records.name, records.texts, columns, rows)


def _as_text(value: Any) -> str | None:
    # Not a number: a data frame's missing value.
    if value is None or value == "" or value != value:  # noqa: PLR0124
        return None
    return with_line_feeds(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def with_line_feeds(text: str) -> str:
    """Return a text whose line breaks are line feeds, as training reads it."""
    return text.replace("\r\n", "\n")
