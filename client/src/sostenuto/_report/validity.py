"""Validity of records: by a pattern, a JSON Schema, and a function of the user's."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sostenuto._report.records import InvalidInput, Records, Row
from sostenuto._report.validator import Validator

NUM_EXAMPLES = 5
Check = Callable[[str], "str | None"]


@dataclass(frozen=True)
class Checks:
    """The checks of a valid record, all of which must pass."""

    pattern: str | None = None  # regular expression in Python's syntax that the whole record matches
    json_schema: Any = None  # a record is JSON that is valid against it
    validator: Validator | None = None  # a function of the user's
    has_columns: bool = False  # whether a record is a row of a table; one that is not is invalid

    def names(self) -> list[str]:
        given = {
            "columns": self.has_columns or None,
            "pattern": self.pattern,
            "json_schema": self.json_schema,
            "validator": self.validator,
        }
        return [name for name, value in given.items() if value is not None]


@dataclass(frozen=True)
class Validity:
    """Results of the checks."""

    # One per record: None for an invalid one; of a valid one, the form in which it is compared with others: its text,
    # unless the validator has returned another one.
    forms: list[str | None]
    reasons: Counter[str]  # number of invalid records by reason
    examples: list[tuple[str, str]]  # records with their reasons, of different reasons first


def check(records: Records, checks: Checks, advance: Callable[[float], object]) -> Validity:
    """Check records; `advance` is called with the completed share, from 0 to 1.

    Raises:
        InvalidArgument: the pattern or the schema is invalid, or the function cannot be imported.
    """
    simple = _simple_checks(checks)
    rows: Sequence[Row | None] = records.rows if records.columns else [[]] * len(records)
    problems: dict[str, str | None] = {}
    for text in records.texts:
        if text not in problems:
            problems[text] = next((found for one in simple if (found := one(text)) is not None), None)
    forms: dict[str, str | None] = {text: text for text, problem in problems.items() if problem is None}
    if checks.validator is not None and forms:
        texts = list(forms)
        for text, verdict in zip(texts, checks.validator.check(texts, advance), strict=True):
            forms[text], problems[text] = verdict
    reasons = [
        "not a row of the table" if row is None else problems[text]
        for text, row in zip(records.texts, rows, strict=True)
    ]
    pairs = list(zip(records.texts, reasons, strict=True))
    valid = [forms.get(text) if reason is None else None for text, reason in pairs]
    invalid = [(text, reason) for text, reason in pairs if reason is not None]
    return Validity(valid, Counter(problem for _, problem in invalid), _examples(invalid))


def _examples(invalid: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return a few different invalid records, one of each reason before a second of any."""
    distinct = list(dict.fromkeys(invalid))
    seen: Counter[str] = Counter()
    ranked = []
    for text, reason in distinct:
        ranked.append((seen[reason], text, reason))
        seen[reason] += 1
    return [(text, reason) for _, text, reason in sorted(ranked, key=lambda entry: entry[0])[:NUM_EXAMPLES]]


def _simple_checks(checks: Checks) -> list[Check]:
    found: list[Check] = []
    if checks.pattern is not None:
        found.append(_pattern_check(checks.pattern))
    if checks.json_schema is not None:
        found.append(_schema_check(checks.json_schema))
    return found


def _pattern_check(pattern: str) -> Check:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        message = f"pattern must be a regular expression in Python's syntax, got {pattern[:60]!r}: {error}"
        raise InvalidInput(message, "pattern") from error
    return lambda text: None if compiled.fullmatch(text) else "does not match the pattern"


def _schema_check(schema: Any) -> Check:
    # Two tenths of a second of imports.
    from jsonschema import validators  # noqa: PLC0415
    from jsonschema.exceptions import SchemaError, ValidationError, best_match  # noqa: PLC0415
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    if not isinstance(schema, dict | bool):
        raise InvalidInput(f"json_schema must be an object or a boolean, got {schema!r:.60}", "json_schema")
    try:
        kind = validators.validator_for(schema, default=validators.Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as error:
        raise InvalidInput(f"json_schema must be a JSON Schema: {error.message[:200]}", "json_schema") from error
    except TypeError as error:
        raise InvalidInput(f"json_schema must be a JSON Schema: {error}", "json_schema") from error
    # An empty registry: a $ref to another document is an error, never a download.
    validator = kind(schema, registry=Registry())

    def find_problem(text: str) -> str | None:
        try:
            value = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return "not JSON"
        try:
            error: ValidationError | None = (
                best_match(validator.iter_errors(value)) if not validator.is_valid(value) else None
            )
        except Unresolvable as problem:
            message = f"json_schema must have no references to what is not in it, got {problem.ref}"
            raise InvalidInput(message, "json_schema") from problem
        except (ValueError, OverflowError):
            # 1e400, which is infinity as a float, is no multiple of anything.
            return "schema: a number is too large"
        except RecursionError:
            return "schema: it refers to itself without end, or the record is nested too deeply"
        return None if error is None else f"schema: {error.validator} at {error.json_path}"

    return find_problem


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which JSON lacks.
    raise ValueError(name)
