"""Structured outputs: the arguments that say what a completion must match, as the API's field."""

from __future__ import annotations

from typing import Any, Union

from sostenuto._errors import InvalidArgument

JSONSchema = Union[dict[str, Any], bool, str, type[Any]]

FIELD = "structured_outputs"
# A completion has one of them.
PATTERNS = ("regex", "choices", "json_schema")
# Members of the field, by argument.
_MEMBERS = {
    "regex": "regex",
    "choices": "choice",
    "json_schema": "json",
    "allowed": "allowed_characters",
    "banned": "banned_characters",
}


def with_structured_outputs(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields with `structured_outputs` in place of its arguments.

    Raises:
        InvalidArgument: arguments contradict each other, or have the name of a member.
    """
    for argument, member in _MEMBERS.items():
        if member in fields and member not in _MEMBERS:
            raise InvalidArgument(f"unknown argument {member}: did you mean {argument}?")
    given = {name: fields[name] for name in _MEMBERS if fields.get(name) is not None}
    rest = {name: value for name, value in fields.items() if name not in _MEMBERS}
    if not given:
        return rest
    patterns = [name for name in given if name in PATTERNS]
    if len(patterns) > 1:
        raise InvalidArgument(
            f"{patterns[0]} and {patterns[1]} exclude each other, as a completion has one pattern: pass one of them"
        )
    if any(each.get(FIELD) is not None for each in (rest, rest.get("extra_body") or {})):
        raise InvalidArgument(f"{next(iter(given))} and {FIELD} exclude each other: pass one of them")
    if "json_schema" in given:
        given["json_schema"] = as_json_schema(given["json_schema"])
    return {**rest, FIELD: {_MEMBERS[name]: value for name, value in given.items()}}


def as_json_schema(schema: JSONSchema) -> Any:
    """Return a schema as JSON; that of a pydantic model is its `model_json_schema()`."""
    return schema.model_json_schema() if hasattr(schema, "model_json_schema") else schema
