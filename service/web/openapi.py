"""The OpenAPI 3.1 document at `/openapi.json`, generated from the endpoints and the types of requests and responses.

Tests validate its examples, and a fuzzer calls what it describes.
"""

import re
from functools import cache
from typing import Any, NoReturn

from pydantic import TypeAdapter

from service import __version__
from service.api.responses import ErrorObject
from service.errors import NotFound
from service.web import examples
from service.web.completions import NO_CHAT
from service.web.endpoint import ENDPOINTS, TAGS, Endpoint

_BEARER = "key"
_IN_PATH = {
    "name": "NAME, NAME:VERSION or NAME@LABEL of a model, as /v1/models lists them",
    "file_id": "id of an uploaded file",
    "job_id": "id of a job",
}
_UPLOAD = {
    "type": "object",
    "required": ["file", "purpose"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "the text, with a file name"},
        "purpose": {"type": "string", "const": "fine-tune"},
    },
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
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
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
        content = {"schema": _UPLOAD, "example": examples.UPLOAD}
        operation["requestBody"] = {"content": {"multipart/form-data": content}, "required": True}
    if endpoint.request:
        operation["requestBody"] = {"content": _request_content(endpoint), "required": True}
    return operation


def _request_content(endpoint: Endpoint) -> dict[str, Any]:
    named = examples.REQUESTS[endpoint.rule]
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
            "description": _IN_PATH[name],
            "schema": {"type": "string"},
            "example": examples.IN_PATH[name],
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
        content = _json(endpoint.response, examples.RESPONSES[endpoint.rule])
        if endpoint.streams:
            example = examples.STREAMS[endpoint.rule]
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
    error = NotFound(NO_CHAT) if (endpoint.response, status) == (NoReturn, 404) else examples.ERRORS[status]
    return {"description": str(error), "content": _json(ErrorObject, error.body())}


def _json(schema_type: Any, example: Any) -> dict[str, Any]:
    return {"application/json": {"schema": _reference(schema_type), "example": example}}


def _reference(schema_type: Any) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{schema_type.__name__}"}
