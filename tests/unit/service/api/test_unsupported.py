"""What other servers know and this one does not is refused by name, unless it asks for nothing."""

import json
import re

import pytest

from service.api import requests
from service.api.openapi import openapi_document
from service.api.requests import CompletionRequest, EmbeddingsRequest
from service.api.unsupported import COMPLETION_FIELDS, EMBEDDING_FIELDS, EMPTY
from service.errors import InvalidRequest
from service.limits import Limits
from tests.manifests import ROOT


def parse(kind, **fields):
    """Parse a body with a prompt or an input and these fields."""
    return requests.parse(kind, json.dumps({"prompt": "x", "input": "x", **fields}).encode(), Limits())


EVERY = [
    *((CompletionRequest, name, field) for name, field in COMPLETION_FIELDS.items()),
    *((EmbeddingsRequest, name, field) for name, field in EMBEDDING_FIELDS.items()),
]
every = pytest.mark.parametrize(("kind", "name", "field"), EVERY, ids=[f"{e[0].__name__}-{e[1]}" for e in EVERY])


@every
@pytest.mark.parametrize("value", [0.5, 7, "x", [5], {"type": "json_object"}], ids=repr)
def test_a_field_that_would_change_the_text_is_refused(kind, name, field, value):
    """400 with the field's name, what it may be, why, and what was given; not ordinary text with 200."""
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, **{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert str(caught.value) == f"{name} must be {field.allowed}: {field.reason}, got {value!r}"


@every
def test_a_value_that_asks_for_nothing_passes(kind, name, field):
    """Clients send defaults: off, null and empty ones."""
    for value in (*EMPTY, *field.neutral):
        parse(kind, **{name: value})
        if type(value) is int:
            parse(kind, **{name: float(value)})
    # True is no 1 and False no 0.
    for wrong in {True, False} - {value for value in field.neutral if type(value) is bool}:
        with pytest.raises(InvalidRequest):
            parse(kind, **{name: wrong})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("response_format", {"type": "json_object"}),
        ("guided_regex", "[0-9]+"),
        ("guided_json", {"type": "object"}),
        ("structured_outputs", {"regex": "[0-9]+"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("grammar", 'root ::= "x"'),
        ("use_beam_search", True),
        ("typical_p", 0.9),
        ("length_penalty", 1.2),
        ("do_sample", False),
        ("n_predict", 128),
    ],
)
def test_what_clients_send_is_refused(field, value):
    """As it stands in the documentation of vLLM, llama.cpp and text-generation-inference."""
    with pytest.raises(InvalidRequest, match=f"^{field} must be absent") as caught:
        parse(CompletionRequest, **{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        # OpenAI's client, with what its type has; guidellm; lm-evaluation-harness; vLLM's benchmark.
        {
            "user": "u",
            "metadata": {"a": "b"},
            "store": True,
            "service_tier": "auto",
            "response_format": {"type": "text"},
        },
        {
            "max_tokens": 5,
            "max_completion_tokens": 5,
            "stop": None,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
        {"temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True, "add_special_tokens": False},
        {"best_of": 1, "repetition_penalty": 1.0, "logprobs": None, "priority": 0, "cache_salt": "x", "n_probs": 0},
        {"mirostat": 0, "typical_p": 1.0, "length_penalty": 1.0, "use_beam_search": False, "skip_special_tokens": True},
        {"top_pp": 0.1},
    ],
)
def test_what_changes_nothing_is_ignored(fields):
    """Unmodified clients work; a field that nobody knows is not noticed."""
    assert parse(CompletionRequest, **fields).prompts == ("x",)


def test_max_tokens_has_another_name():
    """Either is heeded; both must agree."""
    assert parse(CompletionRequest, max_completion_tokens=7).max_tokens == 7
    assert parse(CompletionRequest, max_completion_tokens=7, max_tokens=7).max_tokens == 7
    with pytest.raises(InvalidRequest, match="max_completion_tokens must be absent or max_tokens, 7, got 8"):
        parse(CompletionRequest, max_completion_tokens=8, max_tokens=7)
    with pytest.raises(InvalidRequest, match="max_completion_tokens must be at most 100000, got 100001"):
        parse(CompletionRequest, max_completion_tokens=100_001)


def test_every_refused_field_is_described():
    """In OpenAPI with the values that pass, and in docs/http-api.md."""
    schemas = openapi_document()["components"]["schemas"]
    for body, fields in (("CompletionRequest", COMPLETION_FIELDS), ("EmbeddingsRequest", EMBEDDING_FIELDS)):
        for name, field in fields.items():
            described = schemas[body]["properties"][name]
            assert field.reason in described["description"]
            assert described["enum"] == [*EMPTY, *field.neutral]
    page = (
        (ROOT / "docs/http-api.md").read_text(encoding="utf-8").partition("## What is refused")[2].partition("\n## ")[0]
    )
    assert {*COMPLETION_FIELDS, *EMBEDDING_FIELDS} <= set(re.findall(r"`(\w+)`", page))
