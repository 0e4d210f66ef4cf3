"""The OpenAPI 3.1 document at `/openapi.json`, generated from the types of request bodies and response objects.

Knows endpoints and types. A test compares the endpoints with the application's routes, and a fuzzer calls them.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter

from service import __version__
from service.api import responses
from service.api.requests import (
    MAX_MAPPED,
    MAX_NEIGHBORS,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    InspectRequest,
    TokenizeRequest,
)

_BEARER = "key"
_ERRORS = {
    "400": "a field is wrong; `param` names it",
    "401": "the API key is missing or invalid",
    "403": "the request comes from a page of another origin, or the resume token belongs to another tenant",
    "404": "there is no such model",
    "408": "the body did not arrive in time",
    "410": "the version of the resume token is no longer served",
    "413": "the body exceeds the maximum size",
    "421": "the Host header names another server; see OSTINATO_ALLOWED_HOSTS",
    "429": "the queue is full, or the key's requests or tokens per minute are used up; see Retry-After",
    "499": "the client closed the sending half of its connection",
    "500": "an internal error of the gateway or the model server",
    "503": "the model is not loaded yet, no model server is available, or the server is shutting down; see Retry-After",
    "504": "the request's deadline, timeout_s, has passed",
}


@dataclass(frozen=True)
class Endpoint:
    """One method of one path.

    Attributes:
        body: Type of the request body, or None.
        answer: Type of a successful response, or None.
        errors: Statuses of error responses.
        query: Names of optional query parameters, with descriptions.
        public: Whether it never requires an API key.
        streams: Whether the response may also come as server-sent events.
        is_empty: Whether a successful response has no body.
    """

    path: str
    method: str
    summary: str
    body: type[BaseModel] | None
    answer: Any
    errors: tuple[str, ...] = ()
    query: tuple[tuple[str, str], ...] = ()
    public: bool = False
    streams: bool = False
    is_empty: bool = False


_BODY_ERRORS = ("400", "401", "404", "408", "413", "429")
_WORK_ERRORS = (*_BODY_ERRORS, "499", "500", "503", "504")
ENDPOINTS = (
    Endpoint(
        "/v1/completions",
        "post",
        "Generate completions of prompts, or the text before suffixes",
        CompletionRequest,
        responses.CompletionObject,
        (*_WORK_ERRORS, "403", "410"),
        streams=True,
    ),
    Endpoint(
        "/v1/embeddings",
        "post",
        "Return the model's hidden state of each input",
        EmbeddingsRequest,
        responses.EmbeddingsObject,
        _WORK_ERRORS,
    ),
    Endpoint(
        "/v1/inspect",
        "post",
        "Return the model's activations at each token of a text",
        InspectRequest,
        responses.InspectionObject,
        (*_WORK_ERRORS, "403", "410"),
    ),
    Endpoint("/v1/models", "get", "List the served models", None, responses.ModelList, ("401", "503")),
    Endpoint("/v1/models/{name}", "get", "Return one model", None, responses.ModelObject, ("401", "404", "503")),
    Endpoint(
        "/v1/models/{name}/embedding/neighbors",
        "get",
        "Return the nearest neighbors of a token in the embedding",
        None,
        responses.NeighborsObject,
        ("400", "401", "404", "429", "499", "503"),
        query=(
            ("token", "the token: its text, or its name if it has none"),
            ("token_id", "its id, instead of its text"),
            ("count", f"how many, 10 by default, at most {MAX_NEIGHBORS}"),
        ),
    ),
    Endpoint(
        "/v1/models/{name}/embedding/map",
        "get",
        "Project the embedding to a plane",
        None,
        responses.EmbeddingMapObject,
        ("400", "401", "404", "429", "499", "503"),
        query=(("count", f"how many of the first tokens, 1000 by default, at most {MAX_MAPPED}"),),
    ),
    Endpoint("/v1/status", "get", "Return the gateway's status", None, responses.StatusObject, ("401",)),
    Endpoint(
        "/v1/chat/completions",
        "post",
        "Always 404: these models have no chat format",
        None,
        None,
        ("401", "404", "408", "413"),
    ),
    Endpoint("/tokenize", "post", "Tokenize a text", TokenizeRequest, responses.TokenizeObject, (*_BODY_ERRORS, "503")),
    Endpoint(
        "/detokenize",
        "post",
        "Detokenize token ids",
        DetokenizeRequest,
        responses.DetokenizeObject,
        (*_BODY_ERRORS, "503"),
    ),
    Endpoint(
        "/tokenizer_info",
        "get",
        "Return a model's tokenizer",
        None,
        responses.TokenizerObject,
        ("400", "401", "404", "503"),
        query=(("model", "name of a model; required where there are several"),),
    ),
    Endpoint(
        "/health", "get", "200 where /readyz is, without a body", None, None, ("503",), public=True, is_empty=True
    ),
    Endpoint("/ping", "get", "The same as /health", None, None, ("503",), public=True, is_empty=True),
    Endpoint("/version", "get", "Return the version of the service", None, responses.ServiceVersion, public=True),
    Endpoint("/healthz", "get", "Liveness", None, responses.HealthObject, public=True),
    Endpoint("/readyz", "get", "Readiness", None, responses.ReadyObject, ("503",), public=True),
)


@cache
def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document as a JSON value."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint)
    description = "Recurrent text generators behind OpenAI's completions API."
    return {
        "openapi": "3.1.1",
        "info": {"title": "Ostinato", "description": description, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}},
        },
    }


def _schemas() -> dict[str, Any]:
    """Return the JSON schemas of all request bodies and response objects, and of the definitions that they refer to."""
    types = [endpoint.body for endpoint in ENDPOINTS if endpoint.body]
    types += [endpoint.answer for endpoint in ENDPOINTS if endpoint.answer] + [responses.ErrorObject]
    by_key, shared = TypeAdapter.json_schemas(
        [(each.__name__, "validation", TypeAdapter(each)) for each in types],
        ref_template="#/components/schemas/{model}",
    )
    schemas = {str(name): schema for (name, _), schema in by_key.items() if "$ref" not in schema}
    return {**shared.get("$defs", {}), **schemas}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    statuses = {*endpoint.errors, "421", *(("403",) if endpoint.method == "post" else ())}
    answers = {status: _response(_ERRORS[status], responses.ErrorObject) for status in statuses}
    if endpoint.is_empty or endpoint.answer is not None:
        answers["200"] = _response(endpoint.summary, endpoint.answer)
    if endpoint.streams:
        text = {"type": "string", "description": "with `stream`: `data: {…}` per chunk, then `data: [DONE]`"}
        answers["200"]["content"]["text/event-stream"] = {"schema": text}
    names: list[tuple[str, dict[str, Any]]] = [
        *((name, {"in": "path", "required": True}) for name in re.findall(r"{(\w+)}", endpoint.path)),
        *((name, {"in": "query", "description": text, "required": False}) for name, text in endpoint.query),
    ]
    parameters = [{"name": name, **where, "schema": {"type": "string"}} for name, where in names]
    name = re.sub(r"[{}]", "", endpoint.path.strip("/")).replace("/", "_")
    return {
        "summary": endpoint.summary,
        "operationId": f"{endpoint.method}_{name}",
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": {"content": _content(endpoint.body), "required": True}} if endpoint.body else {}),
        "responses": dict(sorted(answers.items())),
        # Without configured API keys, no endpoint requires one.
        "security": [] if endpoint.public else [{_BEARER: []}, {}],
    }


def _response(description: str, schema_type: Any | None) -> dict[str, Any]:
    return {"description": description, **({"content": _content(schema_type)} if schema_type else {})}


def _content(schema_type: Any) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema_type.__name__}"}}}
