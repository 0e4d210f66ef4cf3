"""The OpenAPI 3.1 document at `/openapi.json`, generated from the endpoints and the types of requests and responses.

Its examples are requests to a small model, `demo` of `make run`, its responses (`examples.json`, with long lists
shortened), and an error per status. Tests validate them and compare them with real responses, and a fuzzer calls what
the document describes.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter

from contract.tokenizers import CharacterTokenizer
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from service import __version__
from service.api.responses import ErrorObject
from service.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    Conflict,
    CrossOrigin,
    DeadlineExceeded,
    GatewayError,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    NotFound,
    Overloaded,
    StateRefused,
    Unauthorized,
)
from service.web.completions import NO_CHAT
from service.web.endpoint import ENDPOINTS, TAGS, Endpoint

_BEARER = "key"
_PATH_DESCRIPTIONS = {
    "name": "NAME, NAME:VERSION or NAME@LABEL of a model, as /v1/models lists them",
    "file_id": "id of an uploaded file",
    "job_id": "id of a job",
}
_UPLOAD_SCHEMA = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the text, with a file name"},
        "purpose": {"type": "string", "const": "fine-tune"},
    },
}

_FILE = json.loads(Path(__file__).with_name("examples.json").read_text())
_PATH_EXAMPLES: dict[str, str] = _FILE["path"]  # by parameter in the path
_UPLOAD_EXAMPLE: dict[str, str] = _FILE["upload"]
# By rule and title; the first one has the response below.
EXAMPLE_REQUESTS: dict[str, dict[str, dict[str, Any]]] = _FILE["requests"]
_TOKENIZER = CharacterTokenizer.train(["\n !"], end_token=True)
# By rule; a string in the file is the rule of an equal response.
EXAMPLE_RESPONSES: dict[str, dict[str, Any]] = {
    **{rule: _FILE["responses"].get(str(value), value) for rule, value in _FILE["responses"].items()},
    "GET /v1/models/{name}/tokenizer/tokenizer.json": tokenizer_json(_TOKENIZER),
    "GET /v1/models/{name}/tokenizer/tokenizer_config.json": tokenizer_config(_TOKENIZER),
}
EXAMPLE_STREAMS = {
    rule: "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    for rule, events in _FILE["streams"].items()
}

# Example of an error by status; each message explains the status.
EXAMPLE_ERRORS: dict[int, GatewayError] = {
    error.status: error
    for error in (
        InvalidRequest("a field is invalid; `param` names it", param="temperature"),
        Unauthorized("the API key is missing or invalid"),
        CrossOrigin(
            "the request comes from a page of another origin, the key lacks the endpoint's role, or the resume token "
            "belongs to another tenant"
        ),
        ModelNotFound("there is no such model", param="model"),
        Conflict("the state of the job or the model does not allow it, or a job needs the file or the model"),
        BodyTimeout("the body did not arrive in time"),
        StateRefused("the version of the resume token is no longer served", "state_outdated"),
        BodyTooLarge("the body exceeds the maximum size"),
        HostNotAllowed("the Host header names another server; see SOSTENUTO_ALLOWED_HOSTS"),
        Overloaded("the queue or the memory for requests is full, or a limit is reached; see Retry-After"),
        ClientGone(),
        InternalError("an internal error of the gateway or the model server"),
        ModelLoading("the model is not loaded, no model server responds, or the server is draining; see Retry-After"),
        DeadlineExceeded("the request's deadline, timeout_s, has passed"),
    )
}


@cache
def openapi_document() -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    description = "Recurrent text generators behind OpenAI's completions API."
    return {
        "openapi": "3.1.1",
        "info": {"title": "Sostenuto API", "description": description, "version": __version__},
        "tags": [{"name": name, "description": tag.description} for name, tag in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas() -> dict[str, Any]:
    """Return the JSON schemas of all request bodies and response objects, and of the definitions that they refer to."""
    types = [endpoint.request for endpoint in ENDPOINTS if endpoint.request]
    types += [endpoint.response for endpoint in ENDPOINTS if endpoint.has_body] + [ErrorObject]
    by_key, shared = TypeAdapter.json_schemas(
        [(each.__name__, "validation", TypeAdapter(each)) for each in types],
        ref_template="#/components/schemas/{model}",
    )
    schemas = {str(name): schema for (name, _), schema in by_key.items() if "$ref" not in schema}
    return {**shared.get("$defs", {}), **schemas}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    method, name = endpoint.method.lower(), re.sub("[/.]", "_", re.sub("[{}]", "", endpoint.path.strip("/")))
    operation = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "description": " ".join((endpoint.view.__doc__ or "").split()),
        "operationId": f"{method}_{name}",
        "responses": _responses(endpoint),
        # Without configured API keys, no endpoint requires one.
        "security": [] if endpoint.public else [{_BEARER: []}, {}],
    }
    if parameters := _parameters(endpoint):
        operation["parameters"] = parameters
    if endpoint.uploads:
        content = {"schema": _UPLOAD_SCHEMA, "example": _UPLOAD_EXAMPLE}
        operation["requestBody"] = {"content": {"multipart/form-data": content}, "required": True}
    if endpoint.request:
        operation["requestBody"] = {"content": _request_content(endpoint), "required": True}
    return operation


def _request_content(endpoint: Endpoint) -> dict[str, Any]:
    named = EXAMPLE_REQUESTS[endpoint.rule]
    schema = _reference(endpoint.request)
    if len(named) == 1:
        return {"application/json": {"schema": schema, "example": next(iter(named.values()))}}
    shown = {title: {"value": value} for title, value in named.items()}
    return {"application/json": {"schema": schema, "examples": shown}}


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_DESCRIPTIONS[name],
            "schema": {"type": "string"},
            "example": _PATH_EXAMPLES[name],
        }
        for name in re.findall(r"{(\w+)}", endpoint.path)
    ]
    in_query = [
        {
            "name": parameter.name,
            "in": "query",
            "required": False,
            "description": parameter.description,
            "schema": dict(parameter.schema),
            **({} if parameter.example is None else {"example": parameter.example}),
            **({"style": "deepObject", "explode": True} if parameter.schema["type"] == "object" else {}),
        }
        for parameter in endpoint.query
    ]
    return in_path + in_query


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    described = {str(status): _error_response(status, endpoint) for status in endpoint.errors}
    if endpoint.has_body:
        content = _json(endpoint.response, EXAMPLE_RESPONSES[endpoint.rule])
        if endpoint.streams:
            example = EXAMPLE_STREAMS[endpoint.rule]
            content["text/event-stream"] = {"schema": _event(endpoint.streams), "example": example}
        described["200"] = {"description": "success", "content": content}
    elif endpoint.response is not NoReturn:
        described["200"] = {"description": "success"}
    return dict(sorted(described.items()))


def _event(data_type: Any) -> dict[str, Any]:
    """Describe an event of a stream; in OpenAPI 3.1 the schema of an event stream is that of each event."""
    data = {"anyOf": [_reference(data_type), _reference(ErrorObject)]}
    return {
        "type": "object",
        "description": "An event: a line `data: …` and an empty line. The last one is `data: [DONE]`, or an error "
        "after the first one.",
        "required": ["data"],
        "properties": {
            "data": {
                "type": "string",
                "anyOf": [{"const": "[DONE]"}, {"contentMediaType": "application/json", "contentSchema": data}],
            }
        },
    }


def _error_response(status: int, endpoint: Endpoint) -> dict[str, Any]:
    error = NotFound(NO_CHAT) if (endpoint.response, status) == (NoReturn, 404) else EXAMPLE_ERRORS[status]
    return {"description": str(error), "content": _json(ErrorObject, error.body())}


def _json(schema_type: Any, example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(schema_type), "example": example}}


def _reference(schema_type: Any) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema_type.__name__}"}
