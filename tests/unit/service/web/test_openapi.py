"""The OpenAPI document is a readable reference: groups, titles, and examples that are valid."""

import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from service.api.body import parse
from service.errors import InvalidRequest
from service.settings import Settings
from service.web.endpoint import ENDPOINTS, TAGS, QueryParameter, integer
from service.web.openapi import EXAMPLE_ERRORS, EXAMPLE_REQUESTS, EXAMPLE_STREAMS, openapi_document

DOCUMENT = openapi_document()
PATHS = DOCUMENT["paths"].items()
OPERATIONS = {f"{verb.upper()} {path}": operation for path, verbs in PATHS for verb, operation in verbs.items()}


def bodies():
    """Yield the name and the media type object of every body of a request or a response."""
    for name, operation in OPERATIONS.items():
        for kind, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} {kind}", media
        for status, response in operation["responses"].items():
            for kind, media in response.get("content", {}).items():
                yield f"{name} {status} {kind}", media


BODIES = dict(bodies())


def validate(example, schema):
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(example)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_a_group_a_title_and_a_description(name):
    operation = OPERATIONS[name]
    (tag,) = operation["tags"]
    assert tag in {tag["name"] for tag in DOCUMENT["tags"]}
    assert 0 < len(operation["summary"]) <= 40
    assert not operation["summary"].endswith(".")
    assert operation["description"].endswith(".")


def test_every_group_has_operations_and_every_title_is_unique():
    assert [tag["name"] for tag in DOCUMENT["tags"]] == list(TAGS)
    assert {operation["tags"][0] for operation in OPERATIONS.values()} == set(TAGS)
    assert len({operation["summary"] for operation in OPERATIONS.values()}) == len(OPERATIONS)


@pytest.mark.parametrize("name", BODIES)
def test_every_body_has_an_example_that_validates_against_its_schema(name):
    media = BODIES[name]
    values = [each["value"] for each in media.get("examples", {"": {"value": media.get("example")}}).values()]
    assert None not in values
    for value in values:
        for instance in events(value) if "event-stream" in name else [value]:
            validate(instance, media["schema"])


def events(stream):
    return [{"data": event.removeprefix("data: ")} for event in stream.strip().split("\n\n")]


@pytest.mark.parametrize("rule", EXAMPLE_STREAMS)
def test_every_chunk_of_an_example_stream_has_the_schema_of_its_content(rule):
    """A chunk is an object of the endpoint, or an error; the last event is no JSON."""
    schema = BODIES[f"{rule} 200 text/event-stream"]["schema"]["properties"]["data"]
    done, chunk = schema["anyOf"]
    *chunks, last = (event["data"] for event in events(EXAMPLE_STREAMS[rule]))
    assert last == done["const"]
    assert chunk["contentMediaType"] == "application/json"
    assert chunks
    for each in (*map(json.loads, chunks), EXAMPLE_ERRORS[504].body()):
        validate(each, chunk["contentSchema"])
    with pytest.raises(ValidationError):
        validate({"text": "a"}, chunk["contentSchema"])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_required_parameter_has_an_example(name):
    for parameter in OPERATIONS[name].get("parameters", []):
        assert "example" in parameter or not parameter["required"]
        assert parameter["description"]
        if "example" in parameter:
            validate(parameter["example"], parameter["schema"])


@pytest.mark.parametrize("endpoint", [endpoint for endpoint in ENDPOINTS if endpoint.request], ids=lambda e: e.path)
def test_every_example_request_is_accepted(endpoint):
    for example in EXAMPLE_REQUESTS[endpoint.rule].values():
        parse(endpoint.request, json.dumps(example).encode(), Settings())


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        ("GET /healthz", "421"),
        ("GET /v1/status", "401 403 421"),
        ("GET /tokenizer_info", "400 401 403 404 421 429 503"),
        ("POST /v1/chat/completions", "401 403 404 408 413 421"),
        ("POST /tokenize", "400 401 403 404 408 413 421 429 503"),
    ],
)
def test_the_errors_of_an_endpoint_derive_from_its_declaration(name, errors):
    assert " ".join(status for status in OPERATIONS[name]["responses"] if status != "200") == errors


COUNT = integer("count", "a number", 1, 9, 3)
FLAG = QueryParameter("vocabulary", "a flag", {"type": "boolean", "default": False})


@pytest.mark.parametrize(
    ("parameter", "value", "parsed"),
    [
        *((COUNT, value, number) for value, number in (("5", 5), ("5.0", 5), ("09.00", 9), (None, 3))),
        *((FLAG, value, True) for value in ("true", "True", "TRUE")),
        *((FLAG, value, False) for value in ("false", "False", None)),
    ],
)
def test_a_parameter_of_a_query_is_parsed_by_its_schema(parameter, value, parsed):
    """A number may be written as a float, as in a body, and a flag in any case, as Python's clients send `True`."""
    assert parameter.read({} if value is None else {parameter.name: value}) is parsed


def test_a_parameter_of_a_query_may_have_pairs():
    pairs = QueryParameter("metadata", "pairs", {"type": "object", "additionalProperties": {"type": "string"}})
    query = {"metadata[a]": "1", "metadata[b][c]": "2", "metadata[d\ne]": "5", "metadata": "3", "data[d]": "4"}
    assert pairs.read(query) == {"a": "1", "b][c": "2", "d\ne": "5"}
    assert pairs.read({}) == {}


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        *((COUNT, value, "from 1 to 9") for value in ("10", "0", "5.1", "-1", "", "5.", "1e0", "x")),
        *((FLAG, value, "true or false") for value in ("yes", "", "1")),
    ],
)
def test_an_invalid_parameter_of_a_query_is_named_with_its_limits(parameter, value, message):
    with pytest.raises(InvalidRequest, match=f"{parameter.name} must be .*{message}, got '{value}'"):
        parameter.read({parameter.name: value})
