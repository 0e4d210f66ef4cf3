"""The routes of the API and their views."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson
from flask import Blueprint, Response, g, request

from contract.errors import TokenizerError
from contract.tokenizer import Tokenizer
from contract.tokenizers.pretrained import tokenizer_config, tokenizer_json
from service import __version__
from service.api import responses
from service.api.requests import (
    MAX_ID,
    MAX_MAPPED,
    MAX_NEIGHBORS,
    MAX_VOCABULARY,
    AnyBody,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    InspectRequest,
    TokenizeRequest,
    parse,
    parse_flag,
    parse_number,
)
from service.context import RequestContext
from service.engine import Engine, Processor, Watch
from service.errors import ClientGone, InvalidRequest, NotFound, ShuttingDown, Unauthorized
from service.generation.logprobs import labels
from service.generation.prompts import encoding_bytes, min_tokens, prompt_bytes, require_ids
from service.generation.request import Request
from service.limits import Limits
from service.models.embedding_vectors import VectorFiles, Vectors, find_token
from service.models.registry import ModelRegistry, ServedModel
from service.web.access_log import RequestLog
from service.web.inspection_response import inspection_parts
from service.web.request_body import read_body
from service.web.responses import (
    CompletionResponse,
    embedding_map_object,
    embeddings_response,
    model_object,
    neighbors_object,
    tokenizer_object,
    vocabulary_page,
)
from service.web.status import Status

# Bytes per token of /tokenize, as an id and in JSON, and per token string (measured: 48 and 110); per token of an
# embedding map, with its two coordinates.
_TOKEN_BYTES, _LABEL_BYTES, _MAPPED_BYTES = 60, 120, 300
# Bytes per token of a vocabulary, as an object and in JSON (measured: 485, and 585 in a file for Hugging Face), and per
# character of its name (measured: 8; a byte that is no character has the label `bytes:` and its code).
_ENTRY_BYTES, _CHARACTER_BYTES = 600, 40

Builder = TypeVar("Builder", bound=Processor)
# Watches the client's connection while a request runs, and calls back when the client disconnects.
WatchSocket = Callable[[Any, Callable[[], object]], AbstractContextManager[Any]]


class ShutdownGate:
    """The switch that refuses new requests once shutdown has begun."""

    def __init__(self) -> None:
        self.is_draining = False

    def refuse_if_draining(self) -> None:
        """Raise ShuttingDown for a new request during shutdown."""
        if self.is_draining:
            raise ShuttingDown("the server is shutting down; send the request to another gateway", retry_after_s=1)


@dataclass(frozen=True)
class Services:
    """The collaborators of the views."""

    engine: Engine
    model_registry: ModelRegistry
    vectors: VectorFiles
    status: Status
    watch_socket: WatchSocket
    shutdown_gate: ShutdownGate
    limits: Limits
    has_keys: bool


def build_routes(services: Services) -> Blueprint:
    """Return a blueprint with every route."""
    routes = Blueprint("v1", __name__)
    for rule, method, view in (
        ("/v1/completions", "POST", _completions),
        ("/v1/chat/completions", "POST", _chat),
        ("/v1/embeddings", "POST", _embeddings),
        ("/v1/inspect", "POST", _inspect),
        ("/v1/models", "GET", _models),
        ("/v1/models/<name>", "GET", _model),
        ("/v1/models/<name>/embedding/neighbors", "GET", _neighbors),
        ("/v1/models/<name>/embedding/map", "GET", _embedding_map),
        ("/v1/models/<name>/tokenizer/tokenizer.json", "GET", _tokenizer_json),
        ("/v1/models/<name>/tokenizer/tokenizer_config.json", "GET", _tokenizer_config),
        ("/v1/status", "GET", _status),
        ("/tokenize", "POST", _tokenize),
        ("/detokenize", "POST", _detokenize),
        ("/tokenizer_info", "GET", _tokenizer_info),
        ("/health", "GET", _health),
        ("/healthz", "GET", _healthz),
        ("/ping", "GET", _health),
        ("/readyz", "GET", _readyz),
        ("/version", "GET", _version),
    ):
        # The names of Flask's endpoints have no dots.
        name = rule.strip("/").replace(".", "_")
        routes.add_url_rule(rule, name, partial(view, services), methods=[method])
    return routes


def _completions(services: Services) -> Response:
    """Generate completions of prompts, or the text before suffixes."""
    record = g.record
    with ExitStack() as stack:
        builder = _start(services, CompletionRequest, services.engine.complete, stack)
        completion = CompletionResponse(builder, record.record_error)
        if not builder.body.stream:
            return _json(completion.whole())
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = Response(completion.events(), mimetype="text/event-stream", headers=headers)
        # Closed even if the stream is dropped before its first event, when no `finally` of the generator would run.
        response.call_on_close(stack.pop_all().close)
        return response


def _start(
    services: Services,
    body_type: type[AnyBody],
    start: Callable[[AnyBody, RequestContext, Watch], Builder],
    stack: ExitStack,
) -> Builder:
    """Parse a body and start its request, which ends with the stack.

    In its own frame, so that no frame holds the body's prompts while it runs.
    """
    services.shutdown_gate.refuse_if_draining()
    body = parse(body_type, _body(), services.limits)
    g.record.record_request(body)
    return start(body, g.context, partial(_watch_request, services, stack))


def _watch_request(services: Services, stack: ExitStack, running: Request) -> None:
    """Have a request end when its client disconnects or its key is revoked, and closed and recorded with the stack."""
    stack.callback(_close, running, g.record)
    stack.enter_context(g.context.watch_key(lambda: running.cancel(Unauthorized("the API key was revoked"))))
    stack.enter_context(services.watch_socket(request.environ.get("gunicorn.socket"), running.cancel))


def _body() -> bytes:
    """Charge a request to its principal, whatever its outcome, and read its body."""
    g.context.charge_request()
    return read_body(g.context.memory)


def _close(running: Request, record: RequestLog) -> None:
    running.close()
    record.record_result(
        model=running.model.ref.name,
        version=running.model.ref.version,
        num_prompt_tokens=running.num_prompt_tokens,
        num_completion_tokens=running.num_completion_tokens,
        reasons=running.finish_reasons,
    )


def _chat(services: Services) -> Response:  # noqa: ARG001 - every view takes them
    """Refuse with the endpoint to use instead: these models have no chat format."""
    raise NotFound(
        "these models complete text and have no chat format: use /v1/completions with a prompt instead of "
        "/v1/chat/completions with messages"
    )


def _embeddings(services: Services) -> Response:
    """Return the model's hidden state for each input."""
    with ExitStack() as stack:
        builder = _start(services, EmbeddingsRequest, services.engine.embed, stack)
        return _json(embeddings_response(builder))


def _inspect(services: Services) -> Response:
    """Return a model's activations while it reads an input."""
    with ExitStack() as stack:
        builder = _start(services, InspectRequest, services.engine.inspect, stack)
        response = Response(inspection_parts(builder), mimetype="application/json")
        response.call_on_close(stack.pop_all().close)
        return response


def _models(services: Services) -> responses.ModelList:
    """List the served models."""
    return {"object": "list", "data": [model_object(model, route) for model, route in services.model_registry.models()]}


def _model(services: Services, name: str) -> responses.ModelObject:
    """Return one model, or the version of it that is named."""
    return model_object(*services.model_registry.look_up(name))


def _neighbors(services: Services, name: str) -> responses.NeighborsObject:
    """Return the nearest neighbors of a token in the embedding."""
    services.shutdown_gate.refuse_if_draining()
    model = services.model_registry.find(name)
    g.context.charge_request()
    count = parse_number(request.args.get("count"), "count", (1, MAX_NEIGHBORS), 10)
    _charge_tokens(model, count)
    vectors, token = _vectors(services, model), request.args.get("token")
    # Without `token` it is required.
    default = None if token is None else 0
    token_id = parse_number(request.args.get("token_id"), "token_id", (0, len(vectors.rows) - 1), default)
    if token is not None:
        token_id = find_token(model, vectors, token)
    return neighbors_object(model, token_id, vectors.neighbors(token_id, count))


def _embedding_map(services: Services, name: str) -> responses.EmbeddingMapObject:
    """Return the embedding projected to a plane."""
    services.shutdown_gate.refuse_if_draining()
    model = services.model_registry.find(name)
    g.context.charge_request()
    count = parse_number(request.args.get("count"), "count", (1, MAX_MAPPED), 1000)
    _charge_tokens(model, count)
    g.context.memory.hold(_MAPPED_BYTES * count, "count", param="count")
    return embedding_map_object(model, *_vectors(services, model).map(count))


def _charge_tokens(model: ServedModel, count: int) -> None:
    """Charge the maximum number of tokens in the response.

    Raises:
        RateLimited: the tokens per minute are used up.
        InvalidRequest: this request alone exceeds the tokens per minute.
    """
    g.context.charge(min(count, len(model.tokenizer.tokens)), param="count")


def _vectors(services: Services, model: ServedModel) -> Vectors:
    """Return the embedding vectors of a version; stop waiting when the client disconnects.

    Raises:
        NotFound: the version has none.
        ClientGone: the client disconnected.
    """
    future: Future[Vectors] = Future()
    with services.watch_socket(request.environ.get("gunicorn.socket"), future.cancel):
        try:
            return services.vectors.of(model, future)
        except CancelledError:
            raise ClientGone from None


def _status(services: Services) -> responses.StatusObject:
    """Return the gateway's status."""
    return services.status.report()


def _tokenize(services: Services) -> responses.TokenizeObject:
    """Tokenize a text."""
    body = parse(TokenizeRequest, _body(), services.limits)
    model, memory = services.model_registry.find(body.model), g.context.memory
    tokenizer = model.tokenizer
    _require_max_tokens("prompt", min_tokens(body.prompt, model), services.limits)
    memory.hold(prompt_bytes([body.prompt]) + encoding_bytes(body.prompt, model), "prompt", param="prompt")
    special = {tokenizer.tokens[i]: i for i in vars(tokenizer.special).values() if i is not None}
    # A prompt that is exactly the name of a special token is encoded as that token: this is how the evaluation harness
    # finds the id of the start token.
    ids = [special[body.prompt]] if body.prompt in special else tokenizer.encode(body.prompt)
    _require_max_tokens("prompt", len(ids), services.limits)
    token_bytes = _TOKEN_BYTES + (_LABEL_BYTES if body.return_token_strs else 0)
    memory.hold(prompt_bytes([body.prompt]) + len(ids) * token_bytes, "prompt", param="prompt")
    strings = labels(tokenizer.detokenizer(), ids) if body.return_token_strs else None
    return {"count": len(ids), "tokens": ids, "token_strs": strings, "max_model_len": None}


def _detokenize(services: Services) -> responses.DetokenizeObject:
    """Detokenize token ids."""
    body = parse(DetokenizeRequest, _body(), services.limits)
    model = services.model_registry.find(body.model)
    _require_max_tokens("tokens", len(body.tokens), services.limits)
    require_ids(body.tokens, model, "tokens")
    num_bytes = prompt_bytes([body.tokens]) + 2 * encoding_bytes(body.tokens, model)
    g.context.memory.hold(num_bytes, "tokens", param="tokens")
    return {"prompt": model.tokenizer.decode(body.tokens)}


def _require_max_tokens(field: str, count: int, limits: Limits) -> None:
    if count > limits.max_request_tokens:
        raise InvalidRequest(f"{field} must be at most {limits.max_request_tokens} tokens, got {count}", param=field)


def _tokenizer_info(services: Services) -> responses.TokenizerObject | Response:
    """Return a model's tokenizer, and a page of its vocabulary if it is requested."""
    model = services.model_registry.find(request.args.get("model"))
    offset = parse_number(request.args.get("offset"), "offset", (0, MAX_ID), 0)
    count = parse_number(request.args.get("count"), "count", (1, MAX_VOCABULARY), MAX_VOCABULARY)
    if not parse_flag(request.args.get("vocabulary"), "vocabulary"):
        return tokenizer_object(model)
    g.context.charge_request()
    tokens = model.tokenizer.tokens[offset : offset + count]
    num_bytes = _ENTRY_BYTES * len(tokens) + _CHARACTER_BYTES * sum(map(len, tokens))
    g.context.memory.hold(num_bytes, "count", param="count")
    page = vocabulary_page(model, range(offset, offset + len(tokens)))
    return _json(orjson.dumps({**tokenizer_object(model), "vocabulary": page}))


def _tokenizer_json(services: Services, name: str) -> Response:
    """Return a model's tokenizer as a file for Hugging Face's `tokenizers`."""
    return _tokenizer_file(services, name, tokenizer_json)


def _tokenizer_config(services: Services, name: str) -> Response:
    """Return the special tokens of a model as a file for Transformers."""
    return _tokenizer_file(services, name, tokenizer_config)


def _tokenizer_file(services: Services, name: str, content: Callable[[Tokenizer], dict[str, Any]]) -> Response:
    model = services.model_registry.find(name)
    g.context.charge_request()
    tokens = model.tokenizer.tokens
    num_bytes = _ENTRY_BYTES * len(tokens) + _CHARACTER_BYTES * sum(map(len, tokens))
    g.context.memory.hold(num_bytes, "the tokenizer")
    try:
        return _json(orjson.dumps(content(model.tokenizer)))
    except TokenizerError as error:
        raise NotFound(
            f"the tokenizer of model {model.ref.name!r} has no equal in Hugging Face's library: {error}"
        ) from error


def _healthz(services: Services) -> responses.HealthObject:  # noqa: ARG001 - every view takes them
    """Return ok while the process is alive."""
    return {"status": "ok"}


def _readyz(services: Services) -> responses.ReadyObject:
    """Return the served models; only their number where API keys are required.

    Not ready while a model is probed for the first time: a request for it would get 503.
    """
    names = _ready_models(services)
    if services.has_keys:
        return {"status": "ready", "num_models": len(names)}
    return {"status": "ready", "num_models": len(names), "models": names}


def _health(services: Services) -> Response:
    """Return an empty response if /readyz returns 200: /health is vLLM's endpoint, /ping is SageMaker's."""
    _ready_models(services)
    return Response(mimetype="application/json")


def _version(services: Services) -> responses.ServiceVersion:  # noqa: ARG001 - every view takes them
    """Return the version of this service."""
    return {"version": __version__}


def _ready_models(services: Services) -> list[str]:
    """Return the names of the models that accept requests.

    Raises:
        ShuttingDown: the server is draining.
        ModelLoading: no model is served yet, or one is being probed for the first time.
    """
    services.shutdown_gate.refuse_if_draining()
    return services.model_registry.ready_models()


def _json(body: bytes) -> Response:
    g.context.memory.shrink(len(body))
    return Response(body, mimetype="application/json")
