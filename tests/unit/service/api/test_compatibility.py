"""Fields without an effect are accepted as clients send them; any other unknown field is refused by name."""

import json
import re

import pytest

from service.api import body, compatibility
from service.api.compatibility import ANY, COMPLETION_FIELDS, EMBEDDING_FIELDS
from service.api.requests import (
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    InspectRequest,
    NextRequest,
    TokenizeRequest,
)
from service.errors import InvalidRequest
from service.settings import Settings
from service.web.openapi import openapi_document
from tests.paths import ROOT

# The required fields of each kind of request.
REQUIRED = {
    CompletionRequest: {"prompt": "x"},
    EmbeddingsRequest: {"input": "x"},
    InspectRequest: {"input": "x"},
    NextRequest: {"prompt": "x"},
    TokenizeRequest: {"prompt": "x"},
    DetokenizeRequest: {"tokens": [3]},
}


def parse(kind, **fields):
    return body.parse(kind, json.dumps({**REQUIRED[kind], **fields}).encode(), Settings())


FIELDS = {CompletionRequest: COMPLETION_FIELDS, EmbeddingsRequest: EMBEDDING_FIELDS}
EVERY = [(kind, *field) for kind, fields in FIELDS.items() for field in fields.items()]
every = pytest.mark.parametrize(("kind", "name", "values"), EVERY, ids=[f"{e[0].__name__}-{e[1]}" for e in EVERY])


@pytest.mark.parametrize("value", [1, None], ids=repr)
@pytest.mark.parametrize("kind", REQUIRED)
def test_an_unknown_field_is_refused_whatever_its_value(kind, value):
    with pytest.raises(InvalidRequest, match=r"^unknown field 'xyzzy'$") as caught:
        parse(kind, xyzzy=value)
    assert caught.value.param == "xyzzy"


@pytest.mark.parametrize(
    ("name", "known"),
    [
        # Misspelt.
        *[("top_pp", "top_p"), ("temperatures", "temperature"), ("max_token", "max_tokens"), ("prompts", "prompt")],
        ("structured_output", "structured_outputs"),
        # Other servers' names of the same.
        *[("max_new_tokens", "max_tokens"), ("max_length", "max_tokens"), ("n_predict", "max_tokens")],
        *[("min_new_tokens", "min_tokens"), ("stop_sequences", "stop"), ("stop_words", "stop")],
        *[("random_seed", "seed"), ("do_sample", "temperature"), ("return_full_text", "echo")],
        *[("suppress_tokens", "logit_bias"), ("bad_words_ids", "logit_bias"), ("messages", "prompt")],
        *[(name, "structured_outputs") for name in ("guided_decoding", "json_schema", "json_object", "regex")],
        *[(name, "structured_outputs") for name in ("grammar_string", "guided_grammar", "structural_tag")],
    ],
)
def test_an_unknown_field_gets_the_name_that_was_probably_meant(name, known):
    with pytest.raises(InvalidRequest) as caught:
        parse(CompletionRequest, **{name: 1})
    assert str(caught.value) == f"unknown field {name!r}: did you mean {known}?"


@pytest.mark.parametrize("name", ["tools", "typical_p", "num_beams", "truncate", "mirostat", "lora_path", "x" * 10**6])
def test_no_name_is_suggested_for_what_is_not_there(name):
    with pytest.raises(InvalidRequest, match=r"^unknown field '\w+…?$|^unknown field '\w+'$"):
        parse(CompletionRequest, **{name: 1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structured_outputs": {"regexp": "a+"}}, "'regexp' in structured_outputs: did you mean regex?"),
        ({"structured_outputs": {"json_schema": {}}}, "'json_schema' in structured_outputs: did you mean json?"),
        ({"structured_outputs": {"regex": "a", "choices": None}}, "'choices' in structured_outputs: did you mean ch"),
        ({"stream_options": {"usage": True}}, "'usage' in stream_options"),
        ({"response_format": {"type": "json_schema", "schema": {}}}, "'schema' in response_format: did you mean json"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "strct": True}}},
            "'strct' in response_format.json_schema: did you mean strict?",
        ),
    ],
    ids=str,
)
def test_an_unknown_member_is_refused_with_its_place(fields, message):
    with pytest.raises(InvalidRequest, match=re.escape(f"unknown field {message}")) as caught:
        parse(CompletionRequest, **fields)
    assert caught.value.param in fields


def test_keywords_of_a_json_schema_are_no_fields():
    schema = {"type": "object", "xyzzy": 1, "properties": {"a": {"plugh": 2}}}
    assert parse(CompletionRequest, structured_outputs={"json": schema}).constraint


@pytest.mark.parametrize("empty", [{}, {"regex": None}, {"json_object": False}, {"grammar": None}], ids=str)
def test_structured_outputs_without_a_constraint_are_refused(empty):
    with pytest.raises(InvalidRequest, match=r"^structured_outputs must have one of regex, choice, json,") as caught:
        parse(CompletionRequest, structured_outputs=empty)
    assert caught.value.param == "structured_outputs"
    assert parse(CompletionRequest, structured_outputs=None).constraint is None


@every
@pytest.mark.parametrize("value", [0.5, 7, "x", [5], {"type": "json_object"}], ids=repr)
def test_a_value_that_requests_something_is_refused(kind, name, values, value):
    """Ignoring it would return 200 with other output than requested."""
    if values is ANY:
        parse(kind, **{name: value})
        return
    with pytest.raises(InvalidRequest, match=rf"^{name} must be absent.* \(unsupported.*\), got ") as caught:
        parse(kind, **{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)


@every
def test_a_value_that_requests_nothing_is_dropped(kind, name, values):
    """Clients send defaults; a request is the same with and without them."""
    without = parse(kind, **({"seed": 1} if kind is CompletionRequest else {}))
    for value in (None, *(["x", {"a": [1]}] if values is ANY else values)):
        given = [value, float(value)] if type(value) is int else [value]
        for each in given:
            assert parse(kind, **{name: each, **({"seed": 1} if kind is CompletionRequest else {})}) == without
    if values is not ANY:
        # True does not pass for 1, nor False for 0.
        for wrong in {True, False} - {value for value in values if type(value) is bool}:
            with pytest.raises(InvalidRequest):
                parse(kind, **{name: wrong})


@pytest.mark.parametrize(
    "fields",
    [
        # OpenAI's client, with optional fields of its types and of its other endpoints.
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "s"},
        {"response_format": {"type": "text"}, "suffix": None, "logit_bias": None, "prompt_cache_key": "k"},
        {"stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"description": "d", "schema": {}}}},
        # guidellm.
        {"max_tokens": 5, "max_completion_tokens": 5, "stop": None, "ignore_eos": True},
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        # lm-evaluation-harness, langchain, and the benchmark of vLLM.
        {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True, "add_special_tokens": False},
        {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "n": 1, "logprobs": None, "max_tokens": 256},
        {"best_of": 1, "repetition_penalty": 1.0, "logprobs": None, "priority": 0, "cache_salt": "x"},
        # The defaults of vLLM's StructuredOutputsParams; `COMPLETION_FIELDS` has those of its CompletionRequest.
        {
            "structured_outputs": {
                **dict.fromkeys(["json", "choice", "grammar", "json_object", "whitespace_pattern", "structural_tag"]),
                **dict.fromkeys(["disable_fallback", "disable_any_whitespace"], False),
                "disable_additional_properties": False,
                "regex": "a+",
            }
        },
    ],
)
def test_requests_of_unmodified_clients_pass(fields):
    assert parse(CompletionRequest, **fields).prompts == ("x",)


def test_max_completion_tokens_is_an_alias_of_max_tokens():
    assert parse(CompletionRequest, max_completion_tokens=7).max_tokens == 7
    assert parse(CompletionRequest, max_completion_tokens=7, max_tokens=7).max_tokens == 7
    with pytest.raises(InvalidRequest, match=r"max_completion_tokens must be .* equal to max_tokens \(7\), got 8"):
        parse(CompletionRequest, max_completion_tokens=8, max_tokens=7)
    with pytest.raises(InvalidRequest, match="max_completion_tokens must be at most 100000, got 100001"):
        parse(CompletionRequest, max_completion_tokens=100_001)


def test_every_field_without_an_effect_is_documented():
    """OpenAPI has the accepted values, and docs/http-api.md names each field; bodies have no other properties."""
    schemas = openapi_document()["components"]["schemas"]
    bodies = {
        "CompletionRequest": COMPLETION_FIELDS,
        "EmbeddingsRequest": EMBEDDING_FIELDS,
        "StreamOptions": compatibility.STREAM_FIELDS,
        "StructuredOutputs": compatibility.STRUCTURED_OUTPUT_FIELDS,
        "JsonSchemaFormat": compatibility.JSON_SCHEMA_FIELDS,
    }
    page = (ROOT / "docs/http-api.md").read_text(encoding="utf-8")
    section = page.partition("## Unknown fields")[2].partition("\n## ")[0]
    for kind, fields in bodies.items():
        assert schemas[kind]["additionalProperties"] is False
        for name, values in fields.items():
            assert (schemas[kind]["properties"][name].get("enum") is None) == (values is ANY)
            assert f"`{name}`" in section
