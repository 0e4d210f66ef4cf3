"""JSON Schema (draft 2020-12) as a regular expression, for the keywords that a regular language can express exactly.

Every text that matches is valid against the schema. Not every valid text matches: objects have their properties in the
schema's order, and only those that are listed; strings have no escapes; numbers have at most 15 digits before the point
and as many after it. Anything else is an error that names the keyword and its place.
"""

import itertools
import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, NoReturn
from urllib.parse import unquote

import orjson

from service.structured_outputs.json_numbers import (
    ANY_NUMBER,
    MAX_DIGITS,
    Bound,
    integers_within,
    numbers_within,
    one_of,
)
from service.structured_outputs.regex_syntax import PatternError, Token, as_group, is_empty, tokenize, with_length

# Characters of a string without escapes (RFC 8259, section 7).
_CHARACTER = r'[^"\\\x00-\x1f]'
# Without halves of surrogate pairs, which strict parsers refuse.
_ESCAPED = r'\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}))'
_ANY_STRING = rf'"(?:{_CHARACTER}|{_ESCAPED})*"'
# An arbitrary property name. An automaton cannot remember the names of an object: with random characters, 57 of 256
# objects repeated a name, 55 of them the empty one.
_ANY_NAME = rf'"(?:{_CHARACTER}|{_ESCAPED})+"'
_SPACE = " ?"
_COMMA = f",{_SPACE}"
_COLON = f":{_SPACE}"
# Annotations, which restrict nothing.
_ANNOTATIONS = {
    "$schema", "$id", "$anchor", "$comment", "$defs", "$vocabulary", "definitions", "title", "description", "default",
    "examples", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema",
    # OpenAPI's.
    "discriminator", "example", "externalDocs", "xml",
}  # fmt: skip
# Of characters, items or properties: more could not be compiled.
_MAX_COUNT = 1_000_000
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_KEYWORDS: Mapping[str, set[str]] = {
    "null": set(),
    "boolean": set(),
    "integer": {*_BOUNDS},
    "number": {*_BOUNDS},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems"},
    "object": {
        *("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
        *("propertyNames", "patternProperties"),
    },
}
_YEAR, _MONTH, _DAY = "[1-9][0-9]{3}", "(?:0[1-9]|1[0-2])", "(?:0[1-9]|1[0-9]|2[0-8])"
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_COUNT = "[1-9][0-9]{0,2}"
_HOURS = f"(?:{_COUNT}H(?:{_COUNT}M(?:{_COUNT}S)?)?|{_COUNT}M(?:{_COUNT}S)?|{_COUNT}S)"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
# Days are at most 28, so that every date exists.
_FORMATS = {
    "date": f"{_YEAR}-{_MONTH}-{_DAY}",
    "time": _TIME,
    "date-time": f"{_YEAR}-{_MONTH}-{_DAY}T{_TIME}",
    "duration": f"P(?:{_COUNT}D(?:T{_HOURS})?|T{_HOURS})",
    "uuid": "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "uuid4": "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "ipv4": rf"{_BYTE}(?:\.{_BYTE}){{3}}",
    "ipv6": "[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){7}",
    "uri": r"https?://[a-z0-9]{1,20}(?:\.[a-z]{2,20}){1,3}(?:/[A-Za-z0-9_~-]{1,30}){0,4}/?",
    "email": r"[a-z0-9]+(?:[._+-][a-z0-9]+)*@[a-z0-9]+(?:-[a-z0-9]+)*(?:\.[a-z0-9]+(?:-[a-z0-9]+)*)+",
}
# Formats that restrict nothing.
_ANNOTATING_FORMATS = {"binary", "password"}
# Without a required property there is an alternative for each possible last one.
_MAX_OPTIONAL = 64
# Arrays of distinct items are listed: up to five items in any order.
_MAX_ORDERS = 400
_MAX_DEPTH = 32


class SchemaError(PatternError):
    """A schema is invalid or has something unsupported; the message names the keyword and its place."""


def _any_value(depth: int) -> str:
    """Return any JSON value whose arrays and objects nest at most `depth` levels deep."""
    scalar = f"{_ANY_STRING}|{ANY_NUMBER}|true|false|null"
    if not depth:
        return f"(?:{scalar})"
    array = rf"\[{_separated([], _any_value(depth - 1), 0, None)}\]"
    return f"(?:{scalar}|{array}|{_any_object(depth)})"


def _any_object(depth: int) -> str:
    entry = f"{_ANY_NAME}{_COLON}{_any_value(depth - 1)}"
    return rf"\{{{_separated([], entry, 0, None)}\}}"


def schema_regex(schema: Any) -> str:
    """Return a regular expression of the JSON texts that are valid against a schema, or raise SchemaError."""
    try:
        return _Converter(schema).convert(schema)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        # A keyword's value has another type than JSON Schema's: items of a number, properties in a list.
        raise SchemaError(f"schema is not a valid JSON Schema ({error})") from error


class _Converter:
    """Converts a schema; `_at` is the path of the current subschema, and `_refs` are the references to it."""

    def __init__(self, root: Any) -> None:
        self._root, self._at, self._depth = root, "schema", 0
        self._refs: tuple[str, ...] = ()

    @contextmanager
    def _inside(self, place: str) -> Iterator[None]:
        """Enter a subschema of the current one."""
        before = self._at, self._depth, self._refs
        self._at, self._depth = self._at + place, self._depth + 1
        if self._depth > _MAX_DEPTH:
            self._fail_nesting()
        yield
        self._at, self._depth, self._refs = before

    def _fail(self, problem: str) -> NoReturn:
        raise SchemaError(f"{self._at}{problem}")

    def _fail_nesting(self) -> NoReturn:
        raise SchemaError(f"{self._at[:60]}… must nest at most {_MAX_DEPTH} levels deep")

    def convert(self, schema: Any, place: str = "") -> str:
        with self._inside(place):
            schema = self._resolved(schema)
            if schema is True or (isinstance(schema, dict) and not _keywords(schema)):
                return _any_value(2)
            if not isinstance(schema, dict):
                self._fail(f" must be an object, got {orjson.dumps(schema).decode()[:40]}")
            keywords = _keywords(schema)
            for combining in ("enum", "const", "anyOf", "oneOf", "allOf"):
                if combining in keywords:
                    return self._combined(combining, schema)
            kinds = schema.get("type", _implied_type(keywords))
            if kinds is None:
                self._fail(" must have a type, or one of $ref, enum, const and anyOf")
            kinds = kinds if isinstance(kinds, list) else [kinds]
            if not kinds:
                self._fail(".type must have at least one type")
            known = set[str]().union(*(_KEYWORDS.get(kind, set()) for kind in kinds)) | {"type"}
            if unsupported := sorted(keywords - known):
                self._fail(f".{unsupported[0]} is not supported for type {' or '.join(map(str, kinds))}")
            return one_of([self._typed(kind, schema) for kind in kinds])

    def _resolved(self, schema: Any) -> Any:
        """Follow references, and return the schema without OpenAPI 3.0's `nullable`."""
        while isinstance(schema, dict) and "$ref" in schema:
            self._require_alone("$ref", schema)
            ref = schema["$ref"]
            if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
                self._fail(f".$ref must be # or begin with #/, got {str(ref)[:40]!r}")
            if len(self._refs) == _MAX_DEPTH:
                self._fail_nesting()
            if ref in self._refs:
                self._fail(f".$ref must not refer to itself, got {ref!r}: recursive schemas are not regular")
            schema = self._lookup(ref)
            self._at, self._refs = f"{self._at}({ref})", (*self._refs, ref)
        if not isinstance(schema, dict) or "nullable" not in schema:
            return schema
        # It becomes one of the types in `type`.
        rest = {keyword: value for keyword, value in schema.items() if keyword != "nullable"}
        if not schema["nullable"]:
            return rest
        if "type" not in schema:
            self._fail(".nullable is not supported without type; use anyOf with type null")
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return {**rest, "type": [*kinds, "null"]}

    def _lookup(self, ref: str) -> Any:
        target = self._root
        # A JSON pointer in a URI (RFC 6901, 6).
        for part in unquote(ref).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, dict) and key in target:
                target = target[key]
            elif isinstance(target, list) and re.fullmatch("[0-9]{1,9}", key) and int(key) < len(target):
                target = target[int(key)]
            else:
                self._fail(f".$ref must name a schema, got {ref!r}, which does not exist")
        return target

    def _require_alone(self, keyword: str, schema: Mapping[str, Any], *others: str) -> None:
        if beside := _keywords(schema) - {keyword, *others}:
            self._fail(f".{sorted(beside)[0]} is not supported beside {keyword}")

    def _combined(self, keyword: str, schema: Mapping[str, Any]) -> str:
        if keyword in ("enum", "const"):
            return one_of([_json_literal(value) for value in self._constants(keyword, schema)])
        self._require_alone(keyword, schema)
        branches = schema[keyword]
        if not isinstance(branches, list) or not branches:
            self._fail(f".{keyword} must have at least one schema")
        if keyword == "oneOf" and len(branches) > 1:
            branches = self._exclusive(branches)
        elif keyword == "allOf" and len(branches) > 1:
            self._fail(".allOf is not supported with several schemas")
        return one_of([self.convert(branch, f".{keyword}[{number}]") for number, branch in enumerate(branches)])

    def _exclusive(self, branches: Sequence[Any]) -> list[Any]:
        """Return schemas that exclude each other; objects do by a property, which becomes required."""
        places = [(branch, f".oneOf[{number}]") for number, branch in enumerate(branches)]
        allowed = [(self._kinds(*place), self._canonical_values(*place)) for place in places]
        resolved = []
        for branch, place in places:
            with self._inside(place):
                resolved.append((self._resolved(branch), place))
        are_objects = [_is_object(schema) for schema, _ in resolved]
        objects = list(itertools.compress(resolved, are_objects))
        tag = self._tag(objects) if len(objects) > 1 else None
        for first, second in itertools.combinations(range(len(branches)), 2):
            (kinds, values), (other_kinds, other_values) = allowed[first], allowed[second]
            is_exclusive = kinds.isdisjoint(other_kinds) or (
                values is not None and other_values is not None and values.isdisjoint(other_values)
            )
            if not is_exclusive and not (tag is not None and are_objects[first] and are_objects[second]):
                self._fail(
                    f".oneOf[{first}] and [{second}] must exclude each other by their types, their constants, or a "
                    "property with constants; use anyOf if both may be valid"
                )
        return [
            {**schema, "required": [*schema.get("required", []), tag]} if tag and is_object else branch
            for branch, (schema, _), is_object in zip(branches, resolved, are_objects, strict=True)
        ]

    def _tag(self, objects: Sequence[tuple[Mapping[str, Any], str]]) -> str | None:
        """Return a property with different constants in each of several objects, for which errors have a place each."""
        for name in objects[0][0].get("properties", {}):
            values = [
                self._canonical_values(schema.get("properties", {}).get(name), f"{place}.properties.{name}")
                for schema, place in objects
            ]
            known = [each for each in values if each is not None]
            if len(known) == len(values) and sum(map(len, known)) == len(set[str]().union(*known)):
                return str(name)
        return None

    def _canonical_values(self, schema: Any, place: str) -> set[str] | None:
        values = self._values(schema, place)
        return None if values is None else set(map(_canonical, values))

    def _values(self, schema: Any, place: str) -> list[Any] | None:
        """Return all values that are valid against a schema, if it lists them."""
        with self._inside(place):
            schema = self._resolved(schema)
            if not isinstance(schema, dict):
                return None
            for keyword in ("enum", "const"):
                if keyword in schema:
                    return self._constants(keyword, schema)
            if "anyOf" in schema:
                lists = [self._values(item, f".anyOf[{number}]") for number, item in enumerate(schema["anyOf"])]
                known = [values for values in lists if values is not None]
                return list(itertools.chain(*known)) if len(known) == len(lists) else None
            values: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}
            return values.get(str(schema.get("type")))

    def _kinds(self, schema: Any, place: str) -> set[str]:
        """Return the types of the values that are valid against a schema; integers are numbers."""
        values = self._values(schema, place)
        if values is not None:
            return {kind for kind in _KEYWORDS for value in values if _has_type(value, kind)} - {"integer"}
        with self._inside(place):
            schema = self._resolved(schema)
            if isinstance(schema, dict) and "anyOf" in schema:
                return set().union(*(self._kinds(item, f".anyOf[{i}]") for i, item in enumerate(schema["anyOf"])))
            if not isinstance(schema, dict) or "type" not in schema:
                return set(_KEYWORDS)
            kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
            return {"number" if kind == "integer" else kind for kind in kinds}

    def _constants(self, keyword: str, schema: Mapping[str, Any]) -> list[Any]:
        """Return the values of `enum` or `const` that have the schema's type."""
        self._require_alone(keyword, schema, "type")
        values = schema[keyword] if keyword == "enum" else [schema[keyword]]
        if not isinstance(values, list) or not values:
            self._fail(".enum must be a list with at least one value")
        kinds = schema.get("type")
        if kinds is not None:
            kinds = kinds if isinstance(kinds, list) else [kinds]
            values = [value for value in values if any(_has_type(value, kind) for kind in kinds)]
            if not values:
                self._fail(f".{keyword} must have a value of type {' or '.join(map(str, kinds))}")
        return values

    def _typed(self, kind: Any, schema: Mapping[str, Any]) -> str:
        convert: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
            "null": lambda _: "null",
            "boolean": lambda _: "(?:true|false)",
            "integer": partial(self._number, integers_within),
            "number": partial(self._number, numbers_within),
            "string": self._string,
            "array": self._array,
            "object": self._object,
        }
        if kind not in convert:
            self._fail(f".type must be one of {', '.join(convert)}, got {kind!r}")
        return convert[kind](schema)

    def _number(self, within: Callable[[Bound | None, Bound | None], list[str]], schema: Mapping[str, Any]) -> str:
        bounds = {
            name: (self._decimal(schema, name), name.startswith("exclusive")) for name in _BOUNDS if name in schema
        }
        lows = [bound for name, bound in bounds.items() if name in _BOUNDS[:2]]
        highs = [bound for name, bound in bounds.items() if name in _BOUNDS[2:]]
        low, high = max(lows, default=None), min(highs, key=lambda bound: (bound[0], not bound[1]), default=None)
        if low and high and low[0] > high[0]:
            self._fail(f".minimum must be at most maximum, got {low[0]} and {high[0]}")
        numbers = within(low, high)
        if not numbers:
            given = ", ".join(f"{name} {schema[name]}" for name in bounds)
            self._fail(f" must allow a number of at most {MAX_DIGITS} digits, got {given}")
        return one_of(numbers)

    def _decimal(self, schema: Mapping[str, Any], name: str) -> Decimal:
        value = schema[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._fail(f".{name} must be a number, got {value!r}")
        return Decimal(repr(value))

    def _string(self, schema: Mapping[str, Any]) -> str:
        pattern, form = schema.get("pattern"), schema.get("format")
        low, high = self._range(schema, "minLength", "maxLength")
        if form in _ANNOTATING_FORMATS:
            form = None
        if pattern is None and form is None:
            return f'"{_CHARACTER}{_times(low, high)}"'
        if pattern is not None and form is not None:
            self._fail(".format is not supported beside pattern")
        if form is not None and form not in _FORMATS:
            self._fail(f".format must be one of {', '.join(_FORMATS)}, got {form!r}")
        regex = pattern if form is None else _FORMATS[form]
        if not isinstance(regex, str):
            self._fail(".pattern must be a string")
        try:
            tokens = with_length(tokenize(regex), low, math.inf if high is None else high)
        except PatternError as error:
            raise SchemaError(f"{self._at}.{'pattern' if form is None else 'format'} {error}") from error
        return f'"{as_group([self._within_string(token) for token in tokens])}"'

    def _within_string(self, token: Token) -> Token:
        """Return a token of a pattern whose characters need no escapes in a JSON string.

        A class of characters loses those that do; a pattern that spells one is an error.
        """
        if token.kind == "character" and re.fullmatch(_CHARACTER, token.character) is None:
            self._fail_escaping(token)
        if token.kind == "group" and token.text.endswith(">"):
            # The schema may repeat the pattern, and a name may occur once in an expression.
            return replace(token, text="(")
        if token.kind != "class" or token.text in (r"\d", r"\w"):
            return token
        text = _CHARACTER if token.text == "." else f"[{token.text}&&{_CHARACTER}]"
        if is_empty(text):
            self._fail_escaping(token)
        return replace(token, text=text)

    def _fail_escaping(self, token: Token) -> NoReturn:
        self._fail(f".pattern must not have {token.text!r}, which would have to be escaped in JSON")

    def _range(self, schema: Mapping[str, Any], minimum: str, maximum: str) -> tuple[int, int | None]:
        low, high = self._whole(schema, minimum) or 0, self._whole(schema, maximum)
        if low < 0 or (high is not None and high < low):
            self._fail(f".{minimum} must be from 0 to {maximum}, got {low} and {high}")
        for name, value in ((minimum, low), (maximum, high or 0)):
            if value > _MAX_COUNT:
                self._fail(f".{name} must be at most {_MAX_COUNT}, got {value:.12g}")
        return low, high

    def _whole(self, schema: Mapping[str, Any], name: str) -> int | None:
        value = schema.get(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            self._fail(f".{name} must be a whole number, got {value!r}")
        return value

    def _array(self, schema: Mapping[str, Any]) -> str:
        if not isinstance(schema.get("uniqueItems", False), bool):
            self._fail(f".uniqueItems must be true or false, got {schema['uniqueItems']!r}")
        if schema.get("uniqueItems") and self._whole(schema, "maxItems") not in (0, 1):
            return self._distinct(schema)
        first = [self.convert(item, f".prefixItems[{i}]") for i, item in enumerate(schema.get("prefixItems", []))]
        items = schema.get("items", not first)
        rest = None if items is False else self.convert(items, ".items")
        low, high = self._range(schema, "minItems", "maxItems")
        if rest is None:
            high = len(first) if high is None else min(high, len(first))
        # A valid array may be shorter than prefixItems; ours is not.
        first = first[: len(first) if high is None else high]
        if low > len(first) and rest is None:
            self._fail(f".minItems must be at most {len(first)}, the number of prefixItems, got {low}")
        more = None if high is None else high - len(first)
        return rf"\[{_separated(first, rest, max(0, low - len(first)), more)}\]"

    def _distinct(self, schema: Mapping[str, Any]) -> str:
        """Return arrays of distinct items: some of a few constants, in any order."""
        values = self._values(schema.get("items", True), ".items")
        if values is None or "prefixItems" in schema:
            self._fail(".uniqueItems needs items of enum, const, boolean or null, or maxItems 1")
        texts = list({_canonical(value): _json_literal(value) for value in values}.values())
        low, high = self._range(schema, "minItems", "maxItems")
        high = len(texts) if high is None else min(high, len(texts))
        if low > high:
            self._fail(f".minItems must be at most {high}, the number of distinct items, got {low}")
        num_items = min(len(texts), _MAX_ORDERS + 1)
        if sum(math.perm(num_items, size) for size in range(1, high + 1)) > _MAX_ORDERS:
            self._fail(
                f".uniqueItems must allow at most {_MAX_ORDERS} arrays, got {len(texts)} items, {high} at a time"
            )
        content = _orders(texts, low, high)
        return rf"\[{content}\]" if low else rf"\[(?:{content})?\]"

    def _object(self, schema: Mapping[str, Any]) -> str:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not properties:
            return self._mapping(schema, schema.get("additionalProperties", True))
        for keyword in ("minProperties", "maxProperties", "propertyNames", "patternProperties"):
            if keyword in schema:
                self._fail(f".{keyword} is not supported beside properties")
        self._require_known(required, properties)
        entries = {name: self.convert(value, f".properties.{name}") for name, value in properties.items()}
        return self._entries(entries, required)

    def _mapping(self, schema: Mapping[str, Any], additional: Any) -> str:
        """Return objects with any names, or some of a list, whose values all have one schema."""
        names, required = schema.get("propertyNames", True), schema.get("required", [])
        if patterns := schema.get("patternProperties"):
            if len(patterns) > 1 or names is not True:
                self._fail(".patternProperties must have one pattern, without propertyNames")
            # All names match it, so that no others are needed.
            ((pattern, additional),) = patterns.items()
            names = {"type": "string", "pattern": pattern}
        listed = None if additional is False else self._values(names, ".propertyNames")
        self._require_known(required, listed or [])
        low, high = self._range(schema, "minProperties", "maxProperties")
        if additional is False:
            if low:
                self._fail(f".minProperties must be 0 without any properties, got {low}")
            return r"\{\}"
        value = self.convert(additional, ".additionalProperties")
        if listed is not None and not {"minProperties", "maxProperties"} & schema.keys():
            return self._entries({name: value for name in listed if isinstance(name, str)}, required)
        if low > 1 or (high is not None and high > 1):
            # Names may be equal, and then there are fewer properties.
            self._fail(".minProperties and maxProperties above 1 are not supported without properties")
        if required:
            self._fail(".required is not supported beside minProperties and maxProperties")
        return rf"\{{{_separated([], f'{self._name(names)}{_COLON}{value}', low, high)}\}}"

    def _require_known(self, required: Sequence[Any], names: Container[Any]) -> None:
        if unknown := [name for name in required if name not in names]:
            self._fail(f".required must have names of properties, got {unknown[0]!r}")

    def _name(self, schema: Any) -> str:
        if schema is True:
            return _ANY_NAME
        if isinstance(schema, dict) and not _keywords(schema) & {"$ref", "enum", "const", "anyOf", "oneOf", "allOf"}:
            schema = {"type": "string", **schema}
        if self._kinds(schema, ".propertyNames") != {"string"}:
            self._fail(".propertyNames must be of type string")
        return self.convert(schema, ".propertyNames")

    def _entries(self, values: Mapping[str, str], required: Container[str]) -> str:
        """Return objects with properties in their order; an optional one may be absent."""
        entries = [(f"{_json_literal(name)}{_COLON}{value}", name in required) for name, value in values.items()]
        first_required = next((number for number, (_, is_required) in enumerate(entries) if is_required), None)
        if first_required is None and len(entries) > _MAX_OPTIONAL:
            self._fail(f".properties must have at most {_MAX_OPTIONAL} optional ones without a required one")
        # A property that is always present has no comma of its own: the first required one, or each in turn as the
        # last.
        alternatives = [
            "".join(f"(?:{entry}{_COMMA})?" for entry, _ in entries[:present])
            + entries[present][0]
            + "".join(
                f"{_COMMA}{entry}" if is_required else f"(?:{_COMMA}{entry})?"
                for entry, is_required in (entries[present + 1 :] if first_required is not None else ())
            )
            for present in (range(len(entries)) if first_required is None else [first_required])
        ]
        content = one_of(alternatives)
        return rf"\{{{content if first_required is not None else f'(?:{content})?'}\}}"


def _keywords(schema: Mapping[str, Any]) -> set[str]:
    """Return the keywords of a schema that may restrict something."""
    return {keyword for keyword in schema.keys() - _ANNOTATIONS if not keyword.startswith("x-")}


def _is_object(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", _implied_type(_keywords(schema))) == "object"


def _implied_type(keywords: set[str]) -> str | None:
    """Return the type that keywords belong to, for a schema without one."""
    return next((kind for kind in ("object", "array", "string") if keywords & _KEYWORDS[kind]), None)


def _canonical(value: Any) -> str:
    """Return a text that is equal for values that are equal in JSON Schema: 1 and 1.0, but not true."""
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(sorted(f'{_canonical(key)}:{_canonical(item)}' for key, item in value.items()))}}}"
    is_whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if is_whole else orjson.dumps(value).decode()


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return bool(kind == ("null" if value is None else "boolean"))
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
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


def _times(low: int, high: int | None) -> str:
    return "*" if (low, high) == (0, None) else f"{{{low},{'' if high is None else high}}}"


def _separated(first: Sequence[str], rest: str | None, low: int, high: int | None) -> str:
    """Return `first` and then from `low` to `high` times `rest`, with commas between."""
    if rest is None or high == 0:
        return _COMMA.join(first)
    if first:
        return f"{_COMMA.join(first)}(?:{_COMMA}{rest}){_times(low, high)}"
    # The last one is outside the repetition, so that the automaton has the states of one.
    several = f"(?:{rest}{_COMMA}){_times(max(0, low - 1), None if high is None else high - 1)}{rest}"
    return several if low else f"(?:{several})?"


def _orders(texts: Sequence[str], low: int, high: int) -> str:
    """Return from `low` or 1 to `high` of several texts in any order, with commas between."""
    parts = []
    for number, text in enumerate(texts):
        more = _orders([*texts[:number], *texts[number + 1 :]], low - 1, high - 1) if high > 1 else ""
        parts.append(text + (f"{_COMMA}{more}" if low > 1 else f"(?:{_COMMA}{more})?" if more else ""))
    return one_of(parts)


# Objects and arrays nest three levels deep: 459 states for a vocabulary of characters. With a fourth, 976.
ANY_OBJECT = _any_object(3)
