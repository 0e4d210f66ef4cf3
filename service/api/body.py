"""The base type of request bodies: parsing, null and unknown fields, and error messages."""

import re
from functools import cache
from typing import Any, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError

from service.api.compatibility import suggestion
from service.errors import InvalidRequest
from service.settings import Settings

# Default of fields that `resolve` fills in from other fields or from the server's limits.
UNRESOLVED: Any = None
# Begins the tag of each type of a union: pydantic puts tags into the location of an error, but clients know only the
# field.
TAG = "|"


class Body(BaseModel):
    """A request body: null is the field's default; an unknown field is refused, whatever its value."""

    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, frozen=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, value: Any) -> Any:
        """Refuse the first unknown field; `extra="forbid"` would report each one."""
        known = _field_names(cls)
        unknown = next((name for name in value if name not in known), None) if isinstance(value, dict) else None
        if unknown is not None:
            raise PydanticCustomError("unknown_field", "{name}", {"name": unknown, "known": known})
        return value

    @field_validator("*", mode="wrap")
    @classmethod
    def _default_for_null(cls, value: Any, validate: ValidatorFunctionWrapHandler, info: Any) -> Any:
        field = cls.model_fields[info.field_name]
        if value is None and not field.is_required():
            # Not `get_default`, which copies: `stream_options` is compared by identity.
            return field.default if field.default_factory is None else field.get_default(call_default_factory=True)
        return validate(value)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe every optional field as nullable."""
        described = handler.resolve_ref_schema(handler(schema))
        described["additionalProperties"] = False
        for name, field in cls.model_fields.items():
            if not field.is_required():
                _make_nullable(described["properties"], field.alias or name, field)
        return described

    def resolve(self, settings: Settings) -> Self:  # noqa: ARG002 - most bodies have only limits of their own
        """Fill in every default; raise InvalidRequest if fields contradict each other or exceed the server's limits."""
        return self


@cache
def _field_names(body_type: type[Body]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in body_type.model_fields.items())


def _make_nullable(properties: dict[str, Any], name: str, field: FieldInfo) -> None:
    described = dict(properties[name])
    outside = {key: described.pop(key) for key in ("title", "description", "default") if key in described}
    if field.default is UNRESOLVED:
        outside["default"] = None
    if None not in described.get("enum", ()) and {"type": "null"} not in described.get("anyOf", ()):
        described = {"anyOf": [*described.get("anyOf", [described]), {"type": "null"}]}
    properties[name] = {**described, **outside}


AnyBody = TypeVar("AnyBody", bound=Body)


def parse(body_type: type[AnyBody], body: bytes, settings: Settings) -> AnyBody:
    """Validate a JSON body and fill in its defaults; raise InvalidRequest, which names field, limit and value."""
    try:
        request = body_type.model_validate_json(body)
    except ValidationError as error:
        raise _explain(error) from error
    return request.resolve(settings)


def require(holds: bool, field: str, limit: str, value: Any = None) -> None:
    """Raise InvalidRequest unless a condition holds; the message names the field, its limit and its value."""
    if not holds:
        got = "" if value is None else f", got {shorten(value)}"
        raise InvalidRequest(f"{field} must {limit}{got}", param=field)


def _explain(error: ValidationError) -> InvalidRequest:
    """Return the first error on one line; pydantic names each branch of a union, but clients know only the field."""
    problem = error.errors(include_url=False)[0]
    if problem["type"] == "json_invalid":
        return InvalidRequest(f"the body must be JSON: {problem['ctx']['error']}")
    if problem["type"] == "unknown_field":
        return _unknown_field(problem["loc"], **problem["ctx"])
    if not problem["loc"]:
        return InvalidRequest(f"the body must be a JSON object, got {shorten(problem['input'])}")
    field = str(problem["loc"][0])
    # The path of a nested field: stop[1], stream_options.include_usage.
    nested = [part for part in problem["loc"][1:] if not str(part).startswith(TAG)]
    path = field + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in nested)
    if problem["type"] == "missing":
        return InvalidRequest(f"{path} is required", param=field)
    message = re.sub(r"^\w+ should ", "", problem["msg"]).split(" after validation")[0]
    if problem["loc"][1:] == ("|text",):
        message = "be a string, a list of strings, a list of token ids or a list of such lists"
    return InvalidRequest(f"{shorten(path, quoted=False)} must {message}, got {shorten(problem['input'])}", param=field)


def _unknown_field(location: tuple[int | str, ...], name: str, known: frozenset[str]) -> InvalidRequest:
    """Return the error of an unknown field, or of an unknown member of the field at a location."""
    where = f" in {'.'.join(map(str, location))}" if location else ""
    close = suggestion(name, known)
    hint = f": did you mean {close}?" if close else ""
    param = str(location[0]) if location else shorten(name, quoted=False)
    return InvalidRequest(f"unknown field {shorten(name)}{where}{hint}", param=param)


def shorten(value: Any, *, quoted: bool = True) -> str:
    """Return a value for an error message; a long list is cut before it is formatted."""
    if isinstance(value, list | str) and len(value) > 60:
        value = value[:60]
    if isinstance(value, int) and abs(value) > 10**60:
        return "a number of more than 60 digits"
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
