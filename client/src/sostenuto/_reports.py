"""Reports on generated records: computed here, or by a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from sostenuto._errors import InvalidArgument

# A list of texts or of rows, or the path of a file.
RecordSource: TypeAlias = "Sequence[str] | Sequence[Mapping[str, Any]] | PathLike[str]"
NEEDED = {"numpy", "rapidfuzz", "jsonschema", "referencing"}
MISSING = "reports need further packages: pip install 'sostenuto[report]'"


@dataclass(frozen=True)
class Report:
    """A report on generated records: how valid, unique, novel and similar to real ones they are.

    Attributes:
        data: dict. All numbers, as JSON values; the page "Report on generated records" of the documentation describes
            them.
    """

    data: dict[str, Any]

    @classmethod
    def compute(
        cls,
        generated: RecordSource,
        training: RecordSource,
        *,
        held_out: RecordSource | None = None,
        pattern: str | None = None,
        json_schema: Any = None,
        validator: str | None = None,
        validator_timeout: float = 10.0,
        columns: Sequence[str] = (),
        file_format: str | None = None,
        generated_format: str | None = None,
        field: str | None = None,
        near: float = 0.2,
        smiles: bool = False,
        seed: int = 0,
        observe: Callable[[float, str], object] = lambda *_: None,
    ) -> Report:
        """Compute a report in this process, without a server. It needs the extra `report`.

        Args:
            generated: list of str, list of dict (rows of a table), or Path of a file: lines of text, .csv or .jsonl.
            training: Same types. What the model was trained on.
            held_out: Same types. Real records that it was not trained on: they get the same report, as the ceiling.
            pattern: str. Regular expression in Python's syntax that a valid record matches as a whole.
            json_schema: dict. A valid record is JSON that is valid against it.
            validator: str. `module:function`; the function gets a record and returns whether it is valid, or its
                canonical form, or None. It runs in separate processes.
            validator_timeout: float. Limit of the function's time for a record, in seconds.
            columns: Names of the columns of texts that are lines of CSV, or of CSV files without a header.
            file_format: str. `lines`, `csv` or `jsonl`. Default: by the suffix of a file.
            generated_format: str. The same for `generated` alone.
            field: str. Column of a file that is the text of a record. Default: `text`, or `prompt` and `completion`, if
                there are such columns; else the whole row is the record.
            near: float. Normalized edit distance up to which a record is a near copy.
            smiles: bool. Add the metrics of MOSES.
            seed: int. Of samples and folds.
            observe: Called with the completed share, from 0 to 1, and the current step.

        Raises:
            InvalidArgument: an argument is invalid, a file cannot be read, or the extra is not installed.
        """
        require_extra()
        from sostenuto._report.files import read_records  # noqa: PLC0415 - packages of the extra `report`
        from sostenuto._report.records import records_of  # noqa: PLC0415
        from sostenuto._report.report import Options, build_report  # noqa: PLC0415
        from sostenuto._report.validator import Validator  # noqa: PLC0415
        from sostenuto._report.validity import Checks  # noqa: PLC0415

        if len(set(columns)) < len(columns):
            raise InvalidArgument(f"columns must have different names, got {', '.join(columns)[:200]}")

        def read(name: str, source: RecordSource, format_here: str | None = file_format) -> Any:
            if isinstance(source, PathLike):
                return read_records(Path(source), file_format=format_here, field=field, columns=tuple(columns))
            return records_of(name, source, tuple(columns))

        function = None if validator is None else Validator(validator, validator_timeout)
        checks = Checks(pattern, json_schema, function)
        return cls(
            build_report(
                read("generated", generated, generated_format or file_format),
                read("training", training),
                None if held_out is None else read("held_out", held_out),
                Options(checks, near, smiles, seed),
                observe,
            )
        )

    def summary(self) -> str:
        """Return some fifteen lines of text: a metric each, with that of the held-out records."""
        from sostenuto._report.display import summary  # noqa: PLC0415 - loaded only if it is used

        return summary(self.data)

    def to_html(self) -> str:
        """Return the report as a page: one file without scripts, with plots."""
        from sostenuto._report.page import page  # noqa: PLC0415 - loaded only if it is used

        return page(self.data)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the report to a file: the page if its name ends with .html, else JSON."""
        as_json = json.dumps(self.data, ensure_ascii=False, allow_nan=False) + "\n"
        is_page = Path(path).suffix.lower() in {".html", ".htm"}
        # Half of a surrogate pair cannot be written as UTF-8.
        Path(path).write_text(self.to_html() if is_page else as_json, encoding="utf-8", errors="replace")

    def __str__(self) -> str:
        return self.summary()


def require_extra() -> None:
    """Import the packages of the extra `report`; raise InvalidArgument if one is missing."""
    try:
        import sostenuto._report.report  # noqa: F401, PLC0415 - as above
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise InvalidArgument(MISSING) from None
