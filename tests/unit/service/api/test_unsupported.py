"""Fields of other servers that this one does not support are rejected by name, unless their value has no effect."""

import json
import re

import pytest

from service.api import requests
from service.api.openapi import openapi_document
from service.api.requests import CompletionRequest, EmbeddingsRequest
from service.api.unsupported import COMPLETION_FIELDS, EMBEDDING_FIELDS, EMPTY
from service.errors import InvalidRequest
from service.limits import Limits
from tests.paths import ROOT


def parse(kind, **fields):
    """Parse a request of a kind with a prompt, an input and the given fields."""
    return requests.parse(kind, json.dumps({"prompt": "x", "input": "x", **fields}).encode(), Limits())


EVERY = [
    *((CompletionRequest, name, field) for name, field in COMPLETION_FIELDS.items()),
    *((EmbeddingsRequest, name, field) for name, field in EMBEDDING_FIELDS.items()),
]
every = pytest.mark.parametrize(("kind", "name", "field"), EVERY, ids=[f"{e[0].__name__}-{e[1]}" for e in EVERY])


@every
@pytest.mark.parametrize("value", [0.5, 7, "x", [5], {"type": "json_object"}], ids=repr)
def test_an_unsupported_field_is_rejected_with_its_reason(kind, name, field, value):
    """Ignoring it would return 200 with other output than requested; the 400 has the allowed values, too."""
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, **{name: value})
    assert (caught.value.status, caught.value.param) == (400, name)
    assert str(caught.value) == f"{name} must be {field.allowed}: {field.reason}, got {value!r}"


@every
def test_a_neutral_value_of_an_unsupported_field_passes(kind, name, field):
    """Clients send defaults: values that are off, null or empty."""
    for value in (*EMPTY, *field.neutral):
        parse(kind, **{name: value})
        if type(value) is int:
            parse(kind, **{name: float(value)})
    # True does not pass for 1, nor False for 0.
    for wrong in {True, False} - {value for value in field.neutral if type(value) is bool}:
        with pytest.raises(InvalidRequest):
            parse(kind, **{name: wrong})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guided_grammar", 'root ::= "x"'),
        ("regex", "[0-9]+"),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("grammar", 'root ::= "x"'),
        ("use_beam_search", True),
        ("typical_p", 0.9),
        ("length_penalty", 1.2),
        ("do_sample", False),
        ("n_predict", 128),
    ],
)
def test_examples_in_docs_of_other_servers_are_rejected(field, value):
    """The values are those of the documentation of vLLM, llama.cpp and text-generation-inference."""
    with pytest.raises(InvalidRequest, match=f"^{field} must be absent") as caught:
        parse(CompletionRequest, **{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize(
    "fields",
    [
        # OpenAI's client with optional fields of its type; guidellm; lm-evaluation-harness; vLLM's benchmark.
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
def test_requests_of_unmodified_clients_pass(fields):
    """Fields without an effect on the output are ignored, and so are unknown ones."""
    assert parse(CompletionRequest, **fields).prompts == ("x",)


def test_max_completion_tokens_is_an_alias_of_max_tokens():
    """A request may have either, or both with the same value."""
    assert parse(CompletionRequest, max_completion_tokens=7).max_tokens == 7
    assert parse(CompletionRequest, max_completion_tokens=7, max_tokens=7).max_tokens == 7
    with pytest.raises(
        InvalidRequest, match=r"max_completion_tokens must be absent or equal to max_tokens \(7\), got 8"
    ):
        parse(CompletionRequest, max_completion_tokens=8, max_tokens=7)
    with pytest.raises(InvalidRequest, match="max_completion_tokens must be at most 100000, got 100001"):
        parse(CompletionRequest, max_completion_tokens=100_001)


def test_every_unsupported_field_is_documented():
    """OpenAPI has its reason and the values that pass; docs/http-api.md names it."""
    schemas = openapi_document()["components"]["schemas"]
    for body, fields in (("CompletionRequest", COMPLETION_FIELDS), ("EmbeddingsRequest", EMBEDDING_FIELDS)):
        for name, field in fields.items():
            described = schemas[body]["properties"][name]
            assert field.reason in described["description"]
            assert described["enum"] == [*EMPTY, *field.neutral]
    page = (ROOT / "docs/http-api.md").read_text(encoding="utf-8")
    section = page.partition("## Unsupported and ignored fields")[2].partition("\n## ")[0]
    assert {*COMPLETION_FIELDS, *EMBEDDING_FIELDS} <= set(re.findall(r"`(\w+)`", section))
