"""JSON Schema (draft 2020-12) as a regular expression, for the keywords that a regular language can express exactly.

Every text that matches is valid against the schema. Not every valid text matches: objects have their properties in the
schema's order, and only those that are listed; strings have no escapes. Anything else is an error that names the
keyword and its place.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

# Characters of a string without escapes (RFC 8259, section 7).
_CHARACTER = r'[^"\\\x00-\x1f]'
# Without halves of surrogate pairs, which strict parsers refuse.
_ESCAPED = r'\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))'
_ANY_STRING = rf'"(?:{_CHARACTER}|{_ESCAPED})*"'
_NATURAL = "(?:0|[1-9][0-9]*)"
_FRACTION = r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SPACE = " ?"
_COMMA = f",{_SPACE}"
_COLON = f":{_SPACE}"
# Annotations, which restrict nothing.
_ANNOTATIONS = {
    "$schema", "$id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "default", "examples",
    "deprecated", "readOnly", "writeOnly",
}  # fmt: skip
_KEYWORDS: Mapping[str, set[str]] = {
    "null": set(),
    "boolean": set(),
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties", "minProperties", "maxProperties"},
}
_YEAR, _MONTH, _DAY = "[1-9][0-9]{3}", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|1[0-9]|2[0-8])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# Days are at most 28, so that every date exists.
_FORMATS = {
    "date": f"{_YEAR}-{_MONTH}-{_DAY}",
    "time": _TIME,
    "date-time": f"{_YEAR}-{_MONTH}-{_DAY}T{_TIME}",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "email": r"[a-z0-9]+(?:[._+-][a-z0-9]+)*@[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+(?:-[a-z0-9]+)*)+",
}
# A property list with optional ones needs an alternative for each that may be the first.
_MAX_OPTIONAL_FIRST = 64
_MAX_DEPTH = 32


class SchemaError(ValueError):
    """A schema is invalid or has something unsupported; the message names the keyword and its place."""


def _any_value(depth: int) -> str:
    """Return any JSON value whose arrays and objects nest at most `depth` levels deep."""
    scalar = f"{_ANY_STRING}|-?{_NATURAL}{_FRACTION}|true|false|null"
    return f"(?:{scalar}|{_any_array(depth)}|{_any_object(depth)})" if depth else f"(?:{scalar})"


def _any_array(depth: int) -> str:
    value = _any_value(depth - 1)
    return rf"\[(?:{value}(?:{_COMMA}{value})*)?\]"


def _any_object(depth: int) -> str:
    entry = f"{_ANY_STRING}{_COLON}{_any_value(depth - 1)}"
    return rf"\{{(?:{entry}(?:{_COMMA}{entry})*)?\}}"


# Objects and arrays nest three levels deep: 1,300 states for a vocabulary of characters. With a fourth, 5,200.
ANY_OBJECT = _any_object(3)


def schema_regex(schema: Any) -> str:
    """Return a regular expression of JSON texts that are valid against a schema.

    Raises:
        SchemaError: the schema has something unsupported.
    """
    try:
        return _Converter(schema).convert(schema, "schema", ())
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        # A keyword's value has another type than JSON Schema's: items of a number, properties in a list.
        raise SchemaError(f"schema is not a valid JSON Schema ({error})") from error


class _Converter:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._depth = 0

    def convert(self, schema: Any, at: str, refs: tuple[str, ...]) -> str:
        """Return the regular expression of a subschema at a path; `refs` are the references that led to it."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise SchemaError(f"{at[:60]}… must nest at most {_MAX_DEPTH} levels deep")
        regex = self._convert(schema, at, refs)
        self._depth -= 1
        return regex

    def _convert(self, schema: Any, at: str, refs: tuple[str, ...]) -> str:
        if schema is True or (isinstance(schema, dict) and not schema.keys() - _ANNOTATIONS):
            return _any_value(2)
        if not isinstance(schema, dict):
            raise SchemaError(f"{at} must be an object, got {orjson.dumps(schema).decode()[:40]}")
        keywords = schema.keys() - _ANNOTATIONS
        for combining in ("$ref", "enum", "const", "anyOf", "oneOf", "allOf"):
            if combining in keywords:
                return self._combined(combining, schema, keywords, at, refs)
        kinds = schema.get("type", _implied_type(keywords))
        if kinds is None:
            raise SchemaError(f"{at} must have a type, or one of $ref, enum, const and anyOf")
        kinds = kinds if isinstance(kinds, list) else [kinds]
        if not kinds:
            raise SchemaError(f"{at}.type must have at least one type")
        known = set[str]().union(*(_KEYWORDS.get(kind, set()) for kind in kinds)) | {"type"}
        if unsupported := sorted(keywords - known):
            raise SchemaError(f"{at}.{unsupported[0]} is not supported for type {' or '.join(map(str, kinds))}")
        return _one_of([self._typed(kind, schema, at, refs) for kind in kinds])

    def _combined(
        self, keyword: str, schema: Mapping[str, Any], keywords: set[str], at: str, refs: tuple[str, ...]
    ) -> str:
        beside = keywords - {keyword, "type"} if keyword in ("enum", "const") else keywords - {keyword}
        if beside:
            raise SchemaError(f"{at}.{sorted(beside)[0]} is not supported beside {keyword}")
        value = schema[keyword]
        match keyword:
            case "const":
                return _constants([value], schema, at)
            case "enum":
                return _constants(value, schema, at)
            case "anyOf" if value == []:
                raise SchemaError(f"{at}.anyOf must have at least one schema")
            case "anyOf":
                return _one_of([self.convert(item, f"{at}.anyOf[{i}]", refs) for i, item in enumerate(value)])
            case "$ref":
                return self._referenced(value, at, refs)
            case _ if isinstance(value, list) and len(value) == 1:
                return self.convert(value[0], f"{at}.{keyword}[0]", refs)
        raise SchemaError(f"{at}.{keyword} is not supported with several schemas; use anyOf if they exclude each other")

    def _referenced(self, ref: Any, at: str, refs: tuple[str, ...]) -> str:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise SchemaError(f"{at}.$ref must begin with #, got {str(ref)[:40]!r}")
        if ref in refs:
            raise SchemaError(f"{at}.$ref must not refer to itself, got {ref!r}: recursive schemas are not regular")
        target = self._root
        for part in ref.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                raise SchemaError(f"{at}.$ref must name a schema, got {ref!r}, which does not exist")
            target = target[key]
        return self.convert(target, f"{at}({ref})", (*refs, ref))

    def _typed(self, kind: Any, schema: Mapping[str, Any], at: str, refs: tuple[str, ...]) -> str:
        convert: Mapping[str, Callable[[], str]] = {
            "null": lambda: "null",
            "boolean": lambda: "(?:true|false)",
            "integer": lambda: _integer(schema, at),
            "number": lambda: _number(schema, at),
            "string": lambda: _string(schema, at),
            "array": lambda: self._array(schema, at, refs),
            "object": lambda: self._object(schema, at, refs),
        }
        if kind not in convert:
            raise SchemaError(f"{at}.type must be one of {', '.join(convert)}, got {kind!r}")
        return convert[kind]()

    def _array(self, schema: Mapping[str, Any], at: str, refs: tuple[str, ...]) -> str:
        first = [
            self.convert(item, f"{at}.prefixItems[{i}]", refs) for i, item in enumerate(schema.get("prefixItems", []))
        ]
        items = schema.get("items", not first)
        rest = None if items is False else self.convert(items, f"{at}.items", refs)
        low, high = _range(schema, "minItems", "maxItems", at)
        if rest is None:
            high = len(first) if high is None else min(high, len(first))
        # A valid array may be shorter than prefixItems; this one is not.
        first = first[: len(first) if high is None else high]
        if low > len(first) and rest is None:
            raise SchemaError(f"{at}.minItems must be at most {len(first)}, the number of prefixItems, got {low}")
        more = None if high is None else high - len(first)
        return rf"\[{_separated(first, rest, max(0, low - len(first)), more)}\]"

    def _object(self, schema: Mapping[str, Any], at: str, refs: tuple[str, ...]) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        additional = schema.get("additionalProperties", not properties)
        if not properties:
            return self._mapping(schema, additional, at, refs)
        for keyword in ("minProperties", "maxProperties"):
            if keyword in schema:
                raise SchemaError(f"{at}.{keyword} is not supported beside properties")
        if unknown := [name for name in required if name not in properties]:
            raise SchemaError(f"{at}.required must have names of properties, got {unknown[0]!r}")
        entries = [
            (
                f"{_json_literal(name)}{_COLON}{self.convert(value, f'{at}.properties.{name}', refs)}",
                name in required,
            )
            for name, value in properties.items()
        ]
        return rf"\{{{_entries(entries, at)}\}}"

    def _mapping(self, schema: Mapping[str, Any], additional: Any, at: str, refs: tuple[str, ...]) -> str:
        """Return objects with any names, whose values all have one schema."""
        if schema.get("required"):
            raise SchemaError(f"{at}.required must have names of properties, got {schema['required'][0]!r}")
        low, high = _range(schema, "minProperties", "maxProperties", at)
        if additional is False:
            if low:
                raise SchemaError(f"{at}.minProperties must be 0 without any properties, got {low}")
            return r"\{\}"
        if low > 1 or (high is not None and high > 1):
            # Names may be equal, and then there are fewer properties.
            raise SchemaError(f"{at}.minProperties and maxProperties above 1 are not supported without properties")
        value = self.convert(additional, f"{at}.additionalProperties", refs)
        return rf"\{{{_separated([], f'{_ANY_STRING}{_COLON}{value}', low, high)}\}}"


def _implied_type(keywords: set[str]) -> str | None:
    """Return the type that keywords belong to, for a schema without one."""
    return next((kind for kind in ("object", "array", "string") if keywords & _KEYWORDS[kind]), None)


def _constants(values: Any, schema: Mapping[str, Any], at: str) -> str:
    if not isinstance(values, list) or not values:
        raise SchemaError(f"{at}.enum must be a list with at least one value")
    kinds = schema.get("type")
    if kinds is not None:
        kinds = kinds if isinstance(kinds, list) else [kinds]
        values = [value for value in values if any(_has_type(value, kind) for kind in kinds)]
        if not values:
            raise SchemaError(f"{at}.enum must have a value of type {' or '.join(map(str, kinds))}")
    return _one_of([_json_literal(value) for value in values])


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(kind == ("null" if value is None else "boolean"))
    types: Mapping[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float),
        "string": (str,),
        "array": (list,),
        "object": (dict,),
    }
    return isinstance(value, types.get(kind, ()))


def _json_literal(value: Any) -> str:
    return re.escape(orjson.dumps(value).decode())


def _integer(schema: Mapping[str, Any], at: str) -> str:
    low, high = (_whole(schema, name, at) for name in ("minimum", "maximum"))
    if (above := _whole(schema, "exclusiveMinimum", at)) is not None:
        low = above + 1 if low is None else max(low, above + 1)
    if (below := _whole(schema, "exclusiveMaximum", at)) is not None:
        high = below - 1 if high is None else min(high, below - 1)
    if low is not None and high is not None and low > high:
        raise SchemaError(f"{at}.minimum must be at most maximum, got {low} and {high}")
    return _one_of([*_negative(low, high), *_natural(low, high)])


def _negative(low: int | None, high: int | None) -> list[str]:
    if low is not None and low >= 0:
        return []
    smallest = 1 if high is None or high >= 0 else -high
    return [f"-{part}" for part in _natural(smallest, None if low is None else -low)]


def _natural(low: int | None, high: int | None) -> list[str]:
    """Return alternatives for the whole numbers from `low`, at least 0, to `high`."""
    low = max(0, low or 0)
    if high is None:
        size = len(str(low))
        longer = f"[1-9][0-9]{{{size},}}"
        return [*_digits(low, 10**size - 1), longer] if low else [_NATURAL]
    return _digits(low, high) if high >= low else []


def _digits(low: int, high: int) -> list[str]:
    """Return alternatives for the whole numbers of a range: blocks that differ in their last digits only."""
    parts: list[str] = []
    while low <= high:
        size = 1
        while low and low % (size * 10) == 0 and low + size * 10 - 1 <= high:
            size *= 10
        digit = low // size % 10
        last_digit = digit + min(9 - digit, (high + 1 - low) // size - 1)
        head = str(low // (size * 10)) if low >= size * 10 else ""
        parts.append(f"{head}[{digit}-{last_digit}]{'[0-9]' * (len(str(size)) - 1)}")
        low += (last_digit - digit + 1) * size
    return parts


def _number(schema: Mapping[str, Any], at: str) -> str:
    for keyword in ("maximum", "exclusiveMinimum", "exclusiveMaximum"):
        if keyword in schema:
            raise SchemaError(f"{at}.{keyword} is not supported for type number")
    minimum = schema.get("minimum")
    if minimum not in (None, 0):
        raise SchemaError(f"{at}.minimum must be 0 for type number, got {minimum!r}; others for type integer only")
    return f"{'' if minimum == 0 else '-?'}{_NATURAL}{_FRACTION}"


def _string(schema: Mapping[str, Any], at: str) -> str:
    pattern, form = schema.get("pattern"), schema.get("format")
    has_length = "minLength" in schema or "maxLength" in schema
    if (pattern is not None) + (form is not None) + has_length > 1:
        raise SchemaError(f"{at} must have only one of pattern, format and a length")
    if pattern is not None:
        return f'"(?:{_within_string(pattern, at)})"'
    if form is not None:
        if form not in _FORMATS:
            raise SchemaError(f"{at}.format must be one of {', '.join(_FORMATS)}, got {form!r}")
        return f'"{_FORMATS[form]}"'
    low, high = _range(schema, "minLength", "maxLength", at)
    return f'"{_CHARACTER}{_times(low, high)}"'


def _within_string(pattern: Any, at: str) -> str:
    """Return a pattern whose characters need no escapes in a JSON string.

    A class of characters loses those that do; a pattern that spells one is an error.
    """
    if not isinstance(pattern, str):
        raise SchemaError(f"{at}.pattern must be a string")
    parts, position = [], 1 if pattern.startswith("^") else 0
    end = len(pattern) - 1 if re.search(r"(?<!\\)(\\\\)*\$$", pattern) else len(pattern)
    while position < end:
        match = _PATTERN_PART.match(pattern, position, end)
        assert match is not None, "any character is a part"
        part, position = match.group(), match.end()
        if part == ".":
            part = _CHARACTER
        elif (part[0] == "[" and "[" not in part[1:].replace("[:", "")) or part in _CLASSES or part[:2] in _PROPERTIES:
            part = f"[{part}&&{_CHARACTER}]"
        elif part[0] == "[" or _spelled(part) in _ESCAPED_CHARACTERS:
            raise SchemaError(f"{at}.pattern must not have {part!r}, which would have to be escaped in JSON")
        parts.append(part)
    return "".join(parts)


def _spelled(part: str) -> str:
    """Return the character that a part of a pattern stands for, or "" for an operator, a class or the like."""
    if part[0] != "\\":
        return part
    if part[1] in "xuU" and len(part) > 2:
        code = int(part[2:].strip("{}"), 16)
        # The compiler refuses higher ones.
        return chr(code) if code <= sys.maxunicode else ""
    return _CONTROL_ESCAPES.get(part[1], part[1])


# An escape, a class of characters, or any other character.
_PATTERN_PART = re.compile(
    r"\\[pP](?:\{[^}]*\}|.)|\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\[xuU]\{[0-9A-Fa-f]+\}|\\."
    r"|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|.",
    re.DOTALL,
)
_CLASSES, _PROPERTIES = {"\\S", "\\D", "\\W", "\\s"}, {"\\p", "\\P"}
_CONTROL_ESCAPES = {"0": "\0", "a": "\a", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED_CHARACTERS = {'"', "\\", *map(chr, range(0x20))}


def _range(schema: Mapping[str, Any], minimum: str, maximum: str, at: str) -> tuple[int, int | None]:
    low, high = _whole(schema, minimum, at) or 0, _whole(schema, maximum, at)
    if low < 0 or (high is not None and high < low):
        raise SchemaError(f"{at}.{minimum} must be from 0 to {maximum}, got {low} and {high}")
    return low, high


def _whole(schema: Mapping[str, Any], name: str, at: str) -> int | None:
    value = schema.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise SchemaError(f"{at}.{name} must be a whole number, got {value!r}")
    return value


def _one_of(alternatives: Sequence[str]) -> str:
    return alternatives[0] if len(alternatives) == 1 else f"(?:{'|'.join(alternatives)})"


def _times(low: int, high: int | None) -> str:
    return "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"


def _separated(first: Sequence[str], rest: str | None, low: int, high: int | None) -> str:
    """Return `first` and then from `low` to `high` times `rest`, with commas between."""
    if rest is None or high == 0:
        return _COMMA.join(first)
    if first:
        return f"{_COMMA.join(first)}(?:{_COMMA}{rest}){_times(low, high)}"
    several = f"{rest}(?:{_COMMA}{rest}){_times(max(0, low - 1), None if high is None else high - 1)}"
    return several if low else f"(?:{several})?"


def _entries(entries: Sequence[tuple[str, bool]], at: str) -> str:
    """Return property entries in their order, with commas between; an optional one may be absent."""
    first_required = next((i for i, (_, is_required) in enumerate(entries) if is_required), None)
    # After the first entry that is present, each has its comma before it.
    starts = range(len(entries) if first_required is None else first_required + 1)
    if len(starts) > _MAX_OPTIONAL_FIRST:
        raise SchemaError(
            f"{at}.properties must have at most {_MAX_OPTIONAL_FIRST} optional ones before a required one"
        )
    alternatives = [
        entries[start][0]
        + "".join(
            f"{_COMMA}{entry}" if is_required else f"(?:{_COMMA}{entry})?"
            for entry, is_required in entries[start + 1 :]
        )
        for start in starts
    ]
    content = _one_of(alternatives)
    return f"(?:{content})?" if first_required is None else content
