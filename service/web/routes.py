"""The addresses of the API and what answers them."""

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, request

from service import __version__
from service.api import responses
from service.api.parameters import Bounds, parse, parse_completion, parse_embeddings, parse_inspect, parse_number
from service.api.requests import MAX_MAPPED, MAX_NEIGHBORS, DetokenizeBody, TokenizeBody
from service.backends.embedding_vectors import VectorFiles, Vectors, find_token
from service.backends.registry import ModelRegistry, ServedModel
from service.engine import AnyJob, Engine
from service.errors import ClientGone, InvalidRequest, NotFound, ShuttingDown
from service.generation.completion import Completion
from service.generation.encoding import encoding_bytes, min_tokens, require_ids
from service.generation.logprobs import labels
from service.generation.memory_estimates import given_bytes
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
)
from service.web.status import Status

# A token of /tokenize, as an id and in JSON, and its text (measured: 48 and 110); one of a map, with its two numbers.
_TOKEN_BYTES, _LABEL_BYTES, _MAPPED_BYTES = 60, 120, 300

# Watches the client's connection while a request runs, and calls back once it is gone.
Watch = Callable[[Any, Callable[[], object]], AbstractContextManager[Any]]


class ShutdownGate:
    """Whether the server takes new requests."""

    def __init__(self) -> None:
        self.begun = False

    def refuse_if_begun(self) -> None:
        """Turn a new request away.

        Raises:
            ShuttingDown: the server drains.
        """
        if self.begun:
            raise ShuttingDown("the server is shutting down; send the request to another replica", retry_after_s=1)


@dataclass(frozen=True)
class Services:
    """What the addresses lead to."""

    engine: Engine
    model_registry: ModelRegistry
    vectors: VectorFiles
    status: Status
    watch: Watch
    drain: ShutdownGate
    bounds: Bounds
    has_keys: bool


def build_routes(parts: Services) -> Blueprint:
    """Wire the addresses to what answers them."""
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
        ("/v1/status", "GET", _status),
        ("/tokenize", "POST", _tokenize),
        ("/detokenize", "POST", _detokenize),
        ("/tokenizer_info", "GET", _tokenizer_info),
        ("/health", "GET", _health),
        ("/healthz", "GET", _healthz),
        ("/ping", "GET", _ping),
        ("/readyz", "GET", _readyz),
        ("/version", "GET", _version),
    ):
        routes.add_url_rule(rule, view.__name__.lstrip("_"), _bound(view, parts), methods=[method])
    return routes


def _bound(view: Callable[..., Any], parts: Services) -> Callable[..., Any]:
    def answer(**arguments: Any) -> Any:
        return view(parts, **arguments)

    return answer


def _completions(parts: Services) -> Response:
    """Go on with prompts, or lead up to suffixes."""
    parts.drain.refuse_if_begun()
    generation, record = _begin(parts), g.record
    with ExitStack() as stack:
        stack.callback(_close, generation, record)
        stack.enter_context(parts.watch(request.environ.get("gunicorn.socket"), generation.cancel))
        answer = CompletionResponse(generation, record.failed)
        if not generation.request.stream:
            return _json(answer.whole())
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        response = Response(answer.events(), mimetype="text/event-stream", headers=headers)
        # Closed even if the stream is dropped before its first event, when no `finally` of a generator would run.
        response.call_on_close(stack.pop_all().close)
        return response


def _begin(parts: Services) -> Completion:
    """Start a completion; in a frame of its own, which does not hold the body's prompts while it runs."""
    wanted = parse_completion(_body(), parts.bounds)
    g.record.asked(wanted.model, wanted.prompts, stream=wanted.stream, suffixes=wanted.suffixes)
    return parts.engine.begin(wanted, g.caller)


def _body() -> bytes:
    """Charge a request to its caller, whatever becomes of it, and read its body."""
    g.caller.charge_request()
    return read_body(g.caller.memory)


def _close(job: AnyJob, record: RequestLog) -> None:
    job.close()
    record.made(
        model=job.model.ref.name,
        version=job.model.ref.version,
        num_prompt_tokens=job.num_prompt_tokens,
        num_completion_tokens=job.num_completion_tokens,
        reasons=job.reasons,
    )


def _chat(parts: Services) -> Response:  # noqa: ARG001 - every view takes them
    """Say where to go instead: a generator of text holds no conversations."""
    raise NotFound(
        "these models go on with text and hold no conversations: use /v1/completions with a prompt instead of "
        "/v1/chat/completions with messages"
    )


def _embeddings(parts: Services) -> Response:
    """Read texts and tell the model's hidden state."""
    parts.drain.refuse_if_begun()
    wanted = parse_embeddings(_body(), parts.bounds)
    g.record.asked(wanted.model, wanted.prompts, stream=False)
    job = parts.engine.embed(wanted, g.caller)
    with ExitStack() as stack:
        stack.callback(_close, job, g.record)
        stack.enter_context(parts.watch(request.environ.get("gunicorn.socket"), job.cancel))
        return _json(embeddings_response(job, mean=wanted.mean, as_base64=wanted.base64))


def _inspect(parts: Services) -> Response:
    """Read a text and tell what goes on in the model."""
    parts.drain.refuse_if_begun()
    wanted = parse_inspect(_body(), parts.bounds)
    g.record.asked(wanted.model, [wanted.given], stream=False)
    job = parts.engine.inspect(wanted, g.caller)
    with ExitStack() as stack:
        stack.callback(_close, job, g.record)
        stack.enter_context(parts.watch(request.environ.get("gunicorn.socket"), job.cancel))
        response = Response(inspection_parts(job), mimetype="application/json")
        response.call_on_close(stack.pop_all().close)
        return response


def _models(parts: Services) -> responses.ModelList:
    """List the models that answer."""
    return {"object": "list", "data": [model_object(model, route) for model, route in parts.model_registry.models()]}


def _model(parts: Services, name: str) -> responses.ModelObject:
    """Describe one model, or the version of it that is named."""
    return model_object(*parts.model_registry.look_up(name))


def _neighbors(parts: Services, name: str) -> responses.NeighborsObject:
    """Tell what lies beside a token."""
    parts.drain.refuse_if_begun()
    model = parts.model_registry.find(name)
    g.caller.charge_request()
    count = parse_number(request.args.get("count"), "count", (1, MAX_NEIGHBORS), 10)
    _charge_tokens(model, count)
    vectors, given = _vectors(parts, model), request.args.get("token")
    if given is None:
        token_id = parse_number(request.args.get("token_id"), "token_id", (0, len(vectors.rows) - 1))
    else:
        token_id = find_token(model, vectors, given)
    return neighbors_object(model, token_id, vectors.neighbors(token_id, count))


def _embedding_map(parts: Services, name: str) -> responses.EmbeddingMapObject:
    """Lay tokens out in a plane."""
    parts.drain.refuse_if_begun()
    model = parts.model_registry.find(name)
    g.caller.charge_request()
    count = parse_number(request.args.get("count"), "count", (1, MAX_MAPPED), 1000)
    _charge_tokens(model, count)
    g.caller.memory.hold(_MAPPED_BYTES * count, "count", param="count")
    return embedding_map_object(model, *_vectors(parts, model).map(count))


def _charge_tokens(model: ServedModel, count: int) -> None:
    """Charge as many tokens as the response has at most.

    Raises:
        RateLimited: the minute's share is used up.
        InvalidRequest: the request alone is more than a minute's share.
    """
    try:
        g.caller.charge(min(count, len(model.tokenizer.tokens)))
    except InvalidRequest as error:
        raise InvalidRequest(str(error), param="count") from error


def _vectors(parts: Services, model: ServedModel) -> Vectors:
    """Return the vectors of a version; a client that leaves does not wait for them.

    Raises:
        NotFound: it has none.
        ClientGone: the client left.
    """
    wanted: Future[Vectors] = Future()
    with parts.watch(request.environ.get("gunicorn.socket"), wanted.cancel):
        try:
            return parts.vectors.of(model, wanted)
        except CancelledError:
            raise ClientGone("the client closed its connection, or the sending half of it") from None


def _status(parts: Services) -> responses.StatusObject:
    """Say what is going on."""
    return parts.status.report()


def _tokenize(parts: Services) -> responses.TokenizeObject:
    """Cut a text into tokens."""
    wanted = parse(TokenizeBody, _body())
    model, memory = parts.model_registry.find(wanted.model), g.caller.memory
    tokenizer = model.tokenizer
    _require_few("prompt", min_tokens(wanted.prompt, model), parts.bounds)
    memory.hold(given_bytes([wanted.prompt]) + encoding_bytes(wanted.prompt, model), "prompt", param="prompt")
    special = {tokenizer.tokens[i]: i for i in vars(tokenizer.special).values() if i is not None}
    # Just a special token's name is that token: so the evaluation harness finds the id of the start mark.
    ids = [special[wanted.prompt]] if wanted.prompt in special else tokenizer.encode(wanted.prompt)
    _require_few("prompt", len(ids), parts.bounds)
    token_bytes = _TOKEN_BYTES + (_LABEL_BYTES if wanted.return_token_strs else 0)
    memory.hold(given_bytes([wanted.prompt]) + len(ids) * token_bytes, "prompt", param="prompt")
    strings = labels(tokenizer.detokenizer(), ids) if wanted.return_token_strs else None
    return {"count": len(ids), "tokens": ids, "token_strs": strings, "max_model_len": None}


def _detokenize(parts: Services) -> responses.DetokenizeObject:
    """Join tokens to a text."""
    wanted = parse(DetokenizeBody, _body())
    model = parts.model_registry.find(wanted.model)
    _require_few("tokens", len(wanted.tokens), parts.bounds)
    require_ids(wanted.tokens, model, "tokens")
    num_bytes = given_bytes([wanted.tokens]) + 2 * encoding_bytes(wanted.tokens, model)
    g.caller.memory.hold(num_bytes, "tokens", param="tokens")
    return {"prompt": model.tokenizer.decode(wanted.tokens)}


def _require_few(field: str, count: int, bounds: Bounds) -> None:
    if count > bounds.max_request_tokens:
        raise InvalidRequest(f"{field} must be at most {bounds.max_request_tokens} tokens, got {count}", param=field)


def _tokenizer_info(parts: Services) -> responses.TokenizerObject:
    """Describe a model's tokenizer."""
    return tokenizer_object(parts.model_registry.find(request.args.get("model")))


def _healthz(parts: Services) -> responses.HealthObject:  # noqa: ARG001 - every view takes them
    """Say that the process lives."""
    return {"status": "ok"}


def _readyz(parts: Services) -> responses.ReadyObject:
    """Return which models are served, or how many where their names are for those who have a key.

    Not while one is probed for the first time: a request for it would be answered 503.
    """
    names = _ready_models(parts)
    if parts.has_keys:
        return {"status": "ready", "num_models": len(names)}
    return {"status": "ready", "num_models": len(names), "models": names}


def _health(parts: Services) -> Response:
    """Return an empty response where /readyz is 200: vLLM's endpoint, which load generators ask first."""
    _ready_models(parts)
    return Response(mimetype="application/json")


def _ping(parts: Services) -> Response:
    """Do as /health does: SageMaker's endpoint."""
    return _health(parts)


def _version(parts: Services) -> responses.ServiceVersion:  # noqa: ARG001 - every view takes them
    """Return the version of this service."""
    return {"version": __version__}


def _ready_models(parts: Services) -> list[str]:
    """Return the names of the models that requests can be sent to.

    Raises:
        ShuttingDown: the server drains.
        BackendUnavailable: no model is served, or one is probed for the first time.
    """
    parts.drain.refuse_if_begun()
    return parts.model_registry.ready_models()


def _json(body: bytes) -> Response:
    g.caller.memory.shrink(len(body))
    return Response(body, mimetype="application/json")
