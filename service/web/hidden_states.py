"""The endpoints of embeddings and inspection: hidden states, gates, and the token embedding."""

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import orjson
from flask import Response, g

from service.api.requests import EmbeddingsRequest, InspectRequest
from service.api.responses import EmbeddingMapObject, EmbeddingsObject, InspectionObject, NeighborsObject
from service.errors import InvalidRequest
from service.models.embedding_vectors import find_token
from service.models.registry import ServedModel
from service.web.endpoint import (
    HIDDEN_STATES,
    MODEL_ERRORS,
    Endpoint,
    QueryParameter,
    Services,
    integer,
    json_response,
    start_request,
)

MAX_NEIGHBORS, MAX_MAPPED = 100, 10_000
# Bytes per token of an embedding map, with its two coordinates.
_MAPPED_BYTES = 300
# Numbers per part of an inspection, and list items per part.
_NUMBERS, _ITEMS = 2**14, 2**12


@Endpoint(
    "POST /v1/embeddings",
    HIDDEN_STATES,
    "Create embeddings",
    MODEL_ERRORS,
    request=EmbeddingsRequest,
    response=EmbeddingsObject,
)
def embeddings(services: Services) -> Response:
    """Return the hidden state of the top layer for each input: its mean over all tokens, or the last one.

    The example shows the first three numbers of each vector.
    """
    with ExitStack() as stack:
        processor = start_request(services, EmbeddingsRequest, services.engine.start_embedding, stack)
        running, vectors = processor.request, list[Any](processor.vectors())
        if processor.body.encoding_format == "base64":
            vectors = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
        data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
        response = {
            "object": "list",
            "data": data,
            "model": running.model.ref.name,
            "version": running.model.ref.number,
            "system_fingerprint": running.fingerprint,
            "usage": {"prompt_tokens": running.num_prompt_tokens, "total_tokens": running.num_prompt_tokens},
        }
        return json_response(orjson.dumps(response, option=orjson.OPT_SERIALIZE_NUMPY))


@Endpoint(
    "POST /v1/inspect",
    HIDDEN_STATES,
    "Inspect a text",
    (*MODEL_ERRORS, 410),
    request=InspectRequest,
    response=InspectionObject,
)
def inspect(services: Services) -> Response:
    """Return hidden state, cell state and gates of each layer at each token, and the most probable tokens there."""
    with ExitStack() as stack:
        processor = start_request(services, InspectRequest, services.engine.start_inspection, stack)
        result, running = processor.result(), processor.request
        fields = {
            "object": "inspection",
            "model": running.model.ref.name,
            "version": running.model.ref.number,
            "system_fingerprint": running.fingerprint,
            **result,
            "layers": iter(result["layers"]),
            "usage": {"prompt_tokens": running.num_prompt_tokens, "total_tokens": running.num_prompt_tokens},
        }
        # In parts: 1 MB of numbers becomes 3 MB of JSON.
        parts = _json_parts(fields, _ENCODINGS[processor.body.encoding_format])
        response = Response(parts, mimetype="application/json")
        response.call_on_close(stack.pop_all().close)
        return response


def _json_parts(value: Any, encode: Callable[[np.ndarray], Iterator[bytes]]) -> Iterator[bytes]:
    """Serialize a JSON value; members of objects are removed, so that each array is freed once it is serialized."""
    if isinstance(value, dict):
        yield b"{"
        for index, name in enumerate([*value]):
            yield (b"," if index else b"") + orjson.dumps(name) + b":"
            yield from _json_parts(value.pop(name), encode)
        yield b"}"
    elif isinstance(value, Iterator):
        yield b"["
        for index, item in enumerate(value):
            if index:
                yield b","
            yield from _json_parts(item, encode)
        yield b"]"
    elif isinstance(value, list):
        yield b"["
        for start in range(0, len(value), _ITEMS):
            yield (b"," if start else b"") + orjson.dumps(value[start : start + _ITEMS])[1:-1]
        yield b"]"
    else:
        yield from encode(value) if isinstance(value, np.ndarray) else [orjson.dumps(value)]


def _numbers(array: np.ndarray) -> Iterator[bytes]:
    """Serialize a vector or a matrix as lists of numbers, some rows at a time."""
    if array.ndim == 1:
        # orjson requires a contiguous array; a slice of a state is not.
        yield orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
        return
    num_rows = max(1, _NUMBERS // max(1, array.shape[1]))
    yield b"["
    for start in range(0, len(array), num_rows):
        rows = orjson.dumps(array[start : start + num_rows], option=orjson.OPT_SERIALIZE_NUMPY)
        yield (b"," if start else b"") + rows[1:-1]
    yield b"]"


def _base64_parts(array: np.ndarray, kind: str) -> Iterator[bytes]:
    """Serialize an array in base64, little-endian and row-major; parts have 3 × n bytes, so they concatenate."""
    flat = np.ascontiguousarray(array).reshape(-1)
    yield b'"'
    for start in range(0, flat.size, 3 * _NUMBERS):
        yield base64.b64encode(flat[start : start + 3 * _NUMBERS].astype(kind).tobytes())
    yield b'"'


_ENCODINGS: dict[str, Callable[[np.ndarray], Iterator[bytes]]] = {
    "float": _numbers,
    "base64": partial(_base64_parts, kind="<f4"),
    "base64_float16": partial(_base64_parts, kind="<f2"),
}


@Endpoint(
    "GET /v1/models/{name}/embedding/neighbors",
    HIDDEN_STATES,
    "List the nearest neighbors of a token",
    (404, 503),
    query=(
        QueryParameter("token", "text of the token, or its name if it has no text", example="e"),
        QueryParameter("token_id", "id of the token, instead of `token`", {"type": "integer", "minimum": 0}),
        integer("count", "number of neighbors to return", 1, MAX_NEIGHBORS, 10, 3),
    ),
)
def neighbors(services: Services, name: str, token: str | None, token_id: int | None, count: int) -> NeighborsObject:
    """Rank tokens by cosine similarity in the token embedding. `token` or `token_id` is required."""
    model = _charged_model(services, name, count)
    vectors = services.vectors.of(model)
    if token is not None:
        token_id = find_token(model, vectors, token)
    elif token_id is None or token_id >= len(vectors.rows):
        rule = f"token_id must be a number from 0 to {len(vectors.rows) - 1}"
        raise InvalidRequest(f"{rule}, got {token_id}", param="token_id")
    label = model.tokenizer.detokenizer().label
    return {
        "object": "list",
        "model": model.ref.name,
        "version": model.ref.number,
        "token_id": token_id,
        "token": label(token_id),
        "data": [
            {"token_id": neighbor, "token": label(neighbor), "cosine": round(cosine, 6)}
            for neighbor, cosine in vectors.neighbors(token_id, count)
        ],
    }


@Endpoint(
    "GET /v1/models/{name}/embedding/map",
    HIDDEN_STATES,
    "Map the token embedding",
    (404, 503),
    query=(integer("count", "number of tokens to map, from the start of the vocabulary", 1, MAX_MAPPED, 1000, 3),),
)
def embedding_map(services: Services, name: str, count: int) -> EmbeddingMapObject:
    """Project the first tokens of the vocabulary to the plane of the two principal components."""
    model = _charged_model(services, name, count)
    g.context.memory.hold(_MAPPED_BYTES * count, "count", param="count")
    token_ids, plane, explained = services.vectors.of(model).map(count)
    label = model.tokenizer.detokenizer().label
    return {
        "object": "embedding_map",
        "model": model.ref.name,
        "version": model.ref.number,
        "token_ids": token_ids.tolist(),
        "tokens": [label(token_id) for token_id in token_ids.tolist()],
        # Rounded as float64: a rounded float32 would be written with 17 digits.
        "x": plane[:, 0].astype(np.float64).round(5).tolist(),
        "y": plane[:, 1].astype(np.float64).round(5).tolist(),
        "explained": [round(share, 6) for share in explained],
    }


def _charged_model(services: Services, name: str, count: int) -> ServedModel:
    """Return a model, and charge a request and the maximum number of tokens in its response."""
    services.refuse_if_draining()
    model = services.model_registry.find(name, may_use=g.context.may_use)
    g.context.charge_request()
    g.context.charge(min(count, len(model.tokenizer.tokens)), param="count")
    return model
