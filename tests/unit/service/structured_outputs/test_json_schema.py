"""Texts that match the regular expression of a JSON Schema are valid, by `json` and `jsonschema`; others are errors."""

import functools
import itertools
import json
import random
import re
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

import jsonschema
import orjson
import pytest
from pydantic import BaseModel, Field, HttpUrl, StringConstraints, create_model

from contract.signatures import FINAL_ROW, FORBIDDEN
from service.scheduling.sampling_inputs import FIRST_ROW
from service.structured_outputs.automata import CompilationLimits, TokenTexts, compile_automaton, compile_bytes
from service.structured_outputs.json_schema import ANY_OBJECT, SchemaError, schema_regex

TOKENS = (b"", *(chr(code).encode() for code in (*range(32, 127), 0x00E9, 0x2603, 10, 9)))
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 1, None]}, "maxItems": 3},
    },
    "required": ["age"],
    "additionalProperties": False,
}
TREE = {
    "$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "number"}}, "required": ["v"]}},
    "type": "object",
    "properties": {"left": {"$ref": "#/$defs/leaf"}, "right": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}},
    "required": ["left", "right"],
}
PETS = {
    "cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "maximum": 9}}},
    "dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}}, "required": ["kind"]},
}
SCHEMAS = [
    True,
    {},
    {"type": "null"},
    {"type": "boolean"},
    {"type": "integer"},
    {"type": "integer", "minimum": -17, "maximum": 1234},
    {"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 201},
    {"type": "integer", "minimum": 37},
    {"type": "integer", "maximum": -8},
    {"type": "number"},
    {"type": "number", "minimum": 0},
    {"type": ["string", "null"]},
    {"type": "string", "pattern": r"^[A-Z]\w*.[^x]$"},
    {"type": "string", "pattern": r"\S+\D?"},
    {"title": "anything"},
    {"properties": {"a." * 40: {"type": "null"}}, "required": ["a." * 40]},
    {"type": "string", "minLength": 3},
    *({"type": "string", "format": form} for form in ("date", "time", "date-time", "uuid", "ipv4", "email")),
    {"const": {"a": [1, "x.y"], "b": None}},
    {"enum": ["red", 7, False, [1, 2]]},
    {"type": "integer", "enum": ["red", 7, False, 8]},
    {"type": "array"},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "boolean"}]},
    {"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3, "maxItems": 5},
    {"type": "object"},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 1},
    {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}},
    {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"]},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 2}]},
    {"allOf": [{"type": "boolean"}]},
    {"type": "number", "minimum": 0.5, "maximum": 9.5},
    {"type": "number", "exclusiveMinimum": 0},
    {"type": "number", "exclusiveMinimum": -1.25, "exclusiveMaximum": 1.5},
    {"type": ["integer", "null"], "minimum": 3, "exclusiveMaximum": 5.5},
    {"type": "integer", "const": 1.0},
    {"type": "string", "pattern": "^[A-Z][a-z]+$", "minLength": 4, "maxLength": 10},
    {"type": "string", "pattern": "^(?:ab)*c|[0-9]+$", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "(?x) [a-z]+ # lower case", "maxLength": 3},
    {"type": "string", "pattern": "[^a-z]{3,}|(?s:.)", "contentMediaType": "text/plain"},
    *({"type": "string", "format": form} for form in ("ipv6", "uri", "duration", "uuid4", "password")),
    {"type": "string", "format": "uri", "minLength": 1, "maxLength": 2083},
    {"type": "array", "items": {"enum": ["red", "green", 1, 1.0]}, "uniqueItems": True},
    {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 1},
    {"type": "array", "items": {"enum": list(range(10))}, "uniqueItems": True, "minItems": 2, "maxItems": 2},
    {"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 1},
    {"type": "array", "items": {"type": "integer"}, "uniqueItems": False},
    {"oneOf": [{"type": "integer"}, {"type": ["string", "null"]}, {"const": True}]},
    {"oneOf": [{"enum": ["a", "b"]}, {"const": "c", "x-order": 2}]},
    {"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}, {"type": "null"}], "$defs": PETS, "discriminator": {}},
    {"type": "object", "propertyNames": {"enum": ["a", "b", "c"]}, "additionalProperties": {"type": "boolean"}},
    {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "required": ["b"], "additionalProperties": {"const": 1}},
    {"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "additionalProperties": {"const": 1}},
    {"type": "object", "patternProperties": {"^[a-z]{2}$": {"const": 1}}, "additionalProperties": False},
    {"type": "string", "x-widget": "text", "example": "a", "$vocabulary": {}, "xml": {}},
    PERSON,
    TREE,
]  # fmt: skip


def automaton_of(regex):
    texts = TokenTexts(TOKENS, TOKENS, 0, len(TOKENS))
    return compile_automaton([regex], texts, CompilationLimits(20_000, 2**25))


def sample(automaton, rng):
    """Return a random text that matches, finished as soon as possible after 40 characters."""
    row, text = FIRST_ROW, b""
    while row != FINAL_ROW:
        entries = automaton.table[row]
        allowed = [i for i in range(len(TOKENS)) if entries[i] != FORBIDDEN]
        if len(text) > 40:
            nearest = min(int(entries[i]) >> 16 for i in allowed)
            allowed = [i for i in allowed if int(entries[i]) >> 16 == nearest]
        token_id = 0 if 0 in allowed and len(text) > 40 else rng.choice(allowed)
        text += TOKENS[token_id]
        row = automaton.step(row, token_id)
    return text.decode()


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_what_matches_is_valid(schema):
    automaton, rng = automaton_of(schema_regex(schema)), random.Random(0)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    is_time = isinstance(schema, dict) and schema.get("format") in ("time", "date-time")
    for _ in range(60):
        # Strict parsers refuse numbers that no double holds; `orjson` does, too.
        value = orjson.loads(sample(automaton, rng))
        validator.validate(value)
        if is_time:
            # jsonschema has no checker of these by itself.
            (time if schema["format"] == "time" else datetime).fromisoformat(value)


@pytest.mark.parametrize("pattern", [r"\p{P}+\pP\PL\P{L}", r"\p{Po}{3}", r"\x2641\x{000041}\u00e9\U00000041\u{42}"])
def test_a_pattern_in_rusts_syntax_matches_json_strings(pattern):
    """Python's `re`, which the validator uses, has neither these properties nor these escapes."""
    automaton, rng = automaton_of(schema_regex({"type": "string", "pattern": pattern})), random.Random(0)
    values = {json.loads(sample(automaton, rng)) for _ in range(60)}
    assert all(isinstance(value, str) and '"' not in value for value in values)
    if "x26" in pattern:
        assert values == {"&41AéAB"}


def test_a_string_has_no_half_of_a_surrogate_pair():
    """Strict parsers refuse it, also as an escape."""
    regex = re.compile(schema_regex(True))
    for code in ("d7ff", "E000", "0041", "dfff", "D800", "dc00"):
        assert bool(regex.fullmatch(f'"\\u{code}"')) == (not 0xD800 <= int(code, 16) <= 0xDFFF)


def test_a_chain_of_references_nests_as_deep_as_it_is_long():
    """The limit comes before Python's own."""
    links = {f"s{number}": {"$ref": f"#/$defs/s{number + 1}"} for number in range(400)}
    with pytest.raises(SchemaError, match="must nest at most 32 levels deep"):
        schema_regex({"$defs": {**links, "s400": {"type": "null"}}, "$ref": "#/$defs/s0"})
    # Where values are looked up, too.
    items = functools.reduce(lambda inner, _: {"anyOf": [inner]}, range(500), {"const": 1})
    with pytest.raises(SchemaError, match=r"schema\.items\.anyOf.* must nest at most 32 levels deep"):
        schema_regex({"type": "array", "items": items, "uniqueItems": True})


def test_any_object_matches_json_objects_alone():
    automaton, rng = automaton_of(ANY_OBJECT), random.Random(0)
    assert all(isinstance(orjson.loads(sample(automaton, rng)), dict) for _ in range(200))
    assert re.fullmatch(ANY_OBJECT, '{"a": [1, -2.5e3, "x\\n"], "b": {"c": [null]}, "d": true}')


@pytest.mark.parametrize("regex", [ANY_OBJECT, schema_regex({"type": "object"}), schema_regex({})])
def test_an_object_with_any_names_has_no_empty_one(regex):
    assert re.fullmatch(regex, '{"a":{"b": ""}}')
    assert not re.fullmatch(regex, '{"":1}')
    assert not re.fullmatch(regex, '{"a":{"b":1, "":1}}')


def test_nullable_allows_null_beside_a_type():
    assert schema_regex({"type": "boolean", "nullable": True}) == schema_regex({"type": ["boolean", "null"]})
    assert schema_regex({"type": "boolean", "nullable": False}) == schema_regex({"type": "boolean"})
    assert schema_regex({"type": "string", "nullable": True, "enum": ["", None]}) == schema_regex({"enum": ["", None]})
    assert schema_regex({"type": "string", "nullable": True, "enum": ["a"]}) == schema_regex({"const": "a"})


@pytest.mark.parametrize(
    ("schema", "matches", "others"),
    [
        (
            {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True},
            ["[]", "[2]", "[3,1]", "[2, 3, 1]"],
            ["[1,1]", "[1,2,1]", "[1,2,3,4]", "[,1]"],
        ),
        (
            {"oneOf": list(PETS.values())},
            ['{"kind":"cat"}', '{"kind":"wolf"}', '{"kind": "cat", "lives": 7}'],
            ["{}", '{"lives":7}', '{"kind":"dog","lives":7}'],
        ),
        ({"type": "string", "pattern": "[a-z]+", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
        ({"type": "integer", "minimum": -1, "maximum": 12}, ["-1", "0", "12"], ["-", "-2", "13", "-0", "01", "1.0"]),
        (
            {"properties": {name: {"const": 1} for name in "abc"}, "required": ["b"]},
            ['{"b":1}', '{"a": 1, "b": 1}', '{"b":1, "c":1}', '{"a":1,"b":1,"c":1}'],
            ["{}", '{"a":1}', '{"b":1,"a":1}', '{"b":1,}', '{,"b":1}'],
        ),
        # The regular expression has the pattern twice.
        (
            {"items": {"type": "string", "pattern": "(?P<year>[0-9]{2})"}, "minItems": 1},
            ['["26"]', '["26","27"]'],
            ["[]", '["2"]'],
        ),
        # As generators of schemas write them: percent-encoded, and an item of a list.
        (
            {
                "$defs": {"Box<a/b>": {"anyOf": [{"const": 1}, {"const": 2}]}},
                "prefixItems": [{"$ref": "#/$defs/Box%3Ca~1b%3E/anyOf/1"}],
                "minItems": 1,
            },
            ["[2]"],
            ["[1]"],
        ),
    ],
    ids=["uniqueItems", "oneOf", "length", "integers", "optional properties", "group name", "references"],
)
def test_all_that_a_combination_allows_matches(schema, matches, others):
    automaton = compile_bytes(schema_regex(schema))
    assert [text for text in matches if not accepts(automaton, text)] == []
    assert [text for text in others if accepts(automaton, text)] == []


def accepts(automaton, text):
    state = 0
    for byte in text.encode():
        state = automaton.next[state, byte]
        if state < 0:
            return False
    return bool(automaton.accepts[state])


class Color(Enum):
    RED, GREEN = "red", "green"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str = Field(min_length=1, max_length=10, pattern="^[A-Z][a-z]+$")


class Order(BaseModel):
    """What users of pydantic describe first."""

    share: float = Field(ge=0.5, le=9.5)
    ratio: float = Field(gt=0, lt=1, json_schema_extra={"x-unit": "%"})
    colors: set[Color]
    counts: dict[str, int]
    by_color: dict[Color, int]
    codes: dict[Annotated[str, StringConstraints(pattern="^[a-z]{2}$")], bool]
    note: str | None = None
    pet: Cat | Dog = Field(discriminator="kind")
    day: date
    id: UUID
    price: Decimal | None = Field(max_digits=9)
    url: HttpUrl
    took: timedelta
    pair: tuple[int, str]
    level: Literal[1, "x", None] = Field(examples=[1], deprecated=True)


def test_texts_for_a_pydantic_model_are_valid_for_it():
    rng = random.Random(0)
    for name, field in Order.model_fields.items():
        model = create_model("Part", **{name: (Annotated[field.annotation, field], field)})
        automaton = automaton_of(schema_regex(model.model_json_schema()))
        for text in (sample(automaton, rng) for _ in range(40)):
            # Pydantic describes a decimal number as any number or string.
            model.model_validate_json(text) if name != "price" else json.loads(text)


def test_a_keyword_with_a_value_of_another_type_is_an_error_and_nothing_else():
    values = [None, True, -1, 2.5, "x", [], [1], ["a"], {}, {"a": 1}, [[]], [{}], {"a": []}]
    keywords = ["properties", "required", "items", "prefixItems", "enum", "anyOf", "allOf", "$ref", "type", "pattern"]
    keywords += ["minItems", "maxLength", "minimum", "additionalProperties", "format", "minProperties", "$defs"]
    for keyword, value, kind in itertools.product(keywords, values, (None, "object", "array", "string", "integer")):
        schema = {keyword: value} if kind is None else {"type": kind, keyword: value}
        with suppress(SchemaError):
            re.compile(schema_regex(schema))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (7, "schema must be an object, got 7"),
        ({"type": "text"}, "schema.type must be one of null, boolean, integer, number, string, array, object"),
        ({"not": {}}, "schema must have a type, or one of"),
        ({"type": "integer", "multipleOf": 3}, "schema.multipleOf is not supported for type integer"),
        ({"type": "number", "minimum": 2, "maximum": 1.5}, "schema.minimum must be at most maximum, got 2 and 1.5"),
        ({"type": "number", "minimum": True}, "schema.minimum must be a number, got True"),
        ({"type": "number", "minimum": 1e16}, "schema must allow a number of at most 15 digits, got minimum 1e+16"),
        ({"type": "integer", "exclusiveMinimum": 2, "maximum": 2.5}, "schema must allow a number of at most 15 digits"),
        ({"type": "integer", "const": 1.5}, "schema.const must have a value of type integer"),
        ({"type": "string", "pattern": 'a"b'}, "schema.pattern must not have '\"'"),
        ({"type": "string", "pattern": r"a\x22"}, r"schema.pattern must not have '\\x22'"),
        ({"type": "string", "pattern": "a)|(b"}, "schema.pattern is not a valid regular expression: ) at position 1"),
        ({"type": "string", "pattern": "a|^b$"}, "schema.pattern must not have anchors or word boundaries inside"),
        ({"type": "string", "pattern": "a(?=b)"}, "schema.pattern must not have look-around, got (?= at position 1"),
        ({"type": "string", "pattern": "[a-z]+ [a-z]+", "maxLength": 3}, "schema.pattern cannot be limited to 0 to 3"),
        ({"type": "string", "pattern": "a", "minLength": 3}, "schema.pattern matches no text of at least 3 characters"),
        ({"type": "string", "pattern": "a", "format": "date"}, "schema.format is not supported beside pattern"),
        ({"type": "string", "format": "hostname"}, "schema.format must be one of date, time"),
        ({"type": "string", "maxLength": -1}, "schema.minLength must be from 0 to maxLength, got 0 and -1"),
        ({"type": "array", "uniqueItems": True}, "schema.uniqueItems needs items of enum, const, boolean or null"),
        ({"items": {"enum": [*range(6)]}, "uniqueItems": True}, "must allow at most 400 arrays, got 6 items, 6 at a"),
        ({"items": {"enum": [1, 1.0]}, "uniqueItems": True, "minItems": 2}, "at most 1, the number of distinct items"),
        ({"nullable": True, "enum": [1]}, "schema.nullable is not supported without type"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "schema.oneOf[0] and [1] must exclude each other by"),
        ({"oneOf": [{"enum": [1, "a"]}, {"const": 1.0}]}, "schema.oneOf[0] and [1] must exclude each other by"),
        ({"oneOf": [{"type": "null"}, True]}, "schema.oneOf[0] and [1] must exclude each other by"),
        ({"oneOf": [{"properties": {"a": {"const": kind}}} for kind in "xyx"]}, "oneOf[0] and [1] must exclude each"),
        (
            {"oneOf": [{"type": "object", "nullable": True, "properties": {"a": {"const": kind}}} for kind in "xy"]},
            "schema.oneOf[0] and [1] must exclude each other by",
        ),
        ({"type": "object", "propertyNames": {"type": "integer"}}, "schema.propertyNames must be of type string"),
        ({"patternProperties": {"a": True, "b": True}}, "schema.patternProperties must have one pattern, without"),
        ({"$ref": "#/$defs/x"}, "schema.$ref must name a schema, got '#/$defs/x', which does not exist"),
        ({"$ref": "other.json"}, "schema.$ref must be # or begin with #/, got 'other.json'"),
        ({"$ref": "#anchor"}, "schema.$ref must be # or begin with #/, got '#anchor'"),
        ({"$ref": "#/anyOf/1", "anyOf": [True]}, "schema.anyOf is not supported beside $ref"),
        ({"items": {"$ref": "#/prefixItems/1"}, "prefixItems": [True]}, "'#/prefixItems/1', which does not exist"),
        ({"type": "string", "pattern": r"yes|no[\n]"}, r"schema.pattern must not have '[\\n]', which would have to be"),
        ({"properties": {"a": {"type": "string", "maxLength": 10**10}}}, "a.maxLength must be at most 1000000, got 1"),
        ({"$defs": {"x": {"items": {"$ref": "#/$defs/x"}}}, "$ref": "#/$defs/x"}, "recursive schemas are not regular"),
        ({"properties": {"a": {"type": "string", "not": {}}}}, "schema.properties.a.not is not supported"),
        ({"properties": {"a": True}, "required": ["b"]}, "schema.required must have names of properties, got 'b'"),
        ({"allOf": [{}, {}]}, "schema.allOf is not supported with several schemas"),
        ({"enum": []}, "schema.enum must be a list with at least one value"),
        ({"anyOf": [True], "type": "string"}, "schema.type is not supported beside anyOf"),
        ({"type": ["integer", "string"], "multipleOf": 5}, "schema.multipleOf is not supported for type integer or"),
        ({"type": []}, "schema.type must have at least one type"),
        ({"anyOf": []}, "schema.anyOf must have at least one schema"),
        ({"additionalProperties": False, "minProperties": 1}, "schema.minProperties must be 0 without any properties"),
        ({"type": "object", "minProperties": 2}, "schema.minProperties and maxProperties above 1 are not supported"),
        ({"properties": {f"p{i}": True for i in range(65)}}, "schema.properties must have at most 64 optional ones"),
        ({"prefixItems": [True], "items": False, "minItems": 2}, "schema.minItems must be at most 1, the number of"),
        ({"enum": ["a", 2], "type": "boolean"}, "schema.enum must have a value of type boolean"),
        ({"type": "string", "pattern": r"\x{000000022}"}, "schema.pattern must not have"),
    ],
)
def test_what_a_regular_expression_cannot_say_is_an_error_that_names_it(schema, message):
    with pytest.raises(SchemaError, match=re.escape(message)):
        schema_regex(schema)
