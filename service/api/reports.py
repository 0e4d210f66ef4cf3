"""The body that asks for a report on generated records, and the response."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag

# Before Python 3.12 pydantic supports only this TypedDict.
from typing_extensions import TypedDict

from service.api.body import Body, require
from service.api.requests import INTEGRAL
from service.api.training import FileId
from service.settings import Settings

MAX_PATTERN, MAX_COLUMNS, MAX_COLUMN_NAME = 10_000, 100, 200
Values = Annotated[
    Annotated[list[str], Field(min_length=1, fail_fast=True), Tag("|texts")]
    | Annotated[list[dict[str, Any]], Field(fail_fast=True), Tag("|rows")],
    Discriminator(
        lambda value: "|rows" if isinstance(value, list) and value and isinstance(value[0], dict) else "|texts"
    ),
]


class ReportRequest(Body):
    """The body of `POST /v1/reports`."""

    generated: Values
    """the records to report on: texts, or rows of a table as objects"""
    training: Values | None = None
    """records that the model was trained on"""
    training_file: FileId | None = None
    """id of an uploaded file with them, instead of `training`"""
    held_out: Values | None = None
    """real records that the model was not trained on: they get the same report, as the ceiling"""
    held_out_file: FileId | None = None
    """id of an uploaded file with them, instead of `held_out`"""
    field: Annotated[str, Field(max_length=MAX_COLUMN_NAME)] | None = None
    """column of the files that is the text of a record; by default `text`, or `prompt` and `completion`"""
    columns: Annotated[list[Annotated[str, Field(max_length=MAX_COLUMN_NAME)]], Field(max_length=MAX_COLUMNS)] = Field(
        default_factory=list
    )
    """names of the columns of texts that are lines of CSV"""
    pattern: Annotated[str, Field(max_length=MAX_PATTERN)] | None = None
    """regular expression in Python's syntax that a valid record matches as a whole"""
    json_schema: dict[str, Any] | None = None
    """JSON Schema of valid records, which are JSON"""
    near: Annotated[float, Field(ge=0, le=1)] = 0.2
    """normalized edit distance up to which a record is a near copy of a training record"""
    smiles: bool = False
    """whether to add the metrics of MOSES"""
    seed: Annotated[int, Field(ge=0, lt=2**31), INTEGRAL] = 0
    """seed of samples and folds"""
    html: bool = False
    """whether the response also has the report as a page"""

    def resolve(self, settings: Settings) -> Self:
        require(self.training is None or self.training_file is None, "training", "be absent with training_file")
        require(self.training is not None or self.training_file is not None, "training", "be given, or training_file")
        require(self.held_out is None or self.held_out_file is None, "held_out", "be absent with held_out_file")
        limit = settings.max_report_records
        for name in ("generated", "training", "held_out"):
            size = len(getattr(self, name) or ())
            require(size <= limit, name, f"have at most {limit} records", size)
        return self


class ReportObject(TypedDict):
    """A report on generated records."""

    object: Literal["report"]
    schema_version: int
    """changes when a field changes its meaning or is removed"""
    sostenuto_version: str
    created_at: str
    """time in UTC, ISO 8601"""
    seed: int
    checks: list[str]
    """what makes a record valid: columns, pattern, json_schema"""
    training: dict[str, Any]
    """records, distinct ones and lengths of the training records"""
    compared_records: int
    """records of each set whose distributions are compared"""
    length_edges: list[int]
    """edges of the bins of lengths; the last one is open"""
    generated: dict[str, Any]
    """the metrics of the generated records; the page of the documentation describes them"""
    held_out: dict[str, Any] | None
    """the same metrics of the held-out records"""
    notes: list[str]
    """notes for reading the numbers"""
    summary: str
    """the most important metrics, as lines of text"""
    html: str | None
    """the report as a page, if requested"""
