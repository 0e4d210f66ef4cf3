"""The addresses that the gateway answers."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from service.answers import CompletionAnswer, model_object
from service.catalog import Catalog
from service.engine import Engine
from service.errors import (
    BackendUnavailable,
    BodyTimeout,
    BodyTooLarge,
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    ShuttingDown,
)
from service.schema import parse_completion
from service.settings import Settings

log = logging.getLogger(__name__)

# Watches the client's connection while a request runs, and calls back once it is gone.
Watch = Callable[[Any, Callable[[], None]], AbstractContextManager[Any]]


class Drain:
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


def build_routes(engine: Engine, catalog: Catalog, watch: Watch, drain: Drain, settings: Settings) -> Blueprint:
    """Wire the addresses to what answers them."""
    routes = Blueprint("v1", __name__)

    @routes.post("/v1/completions")
    def completions() -> Response | dict[str, Any]:
        """Go on with a prompt."""
        drain.refuse_if_begun()
        wanted = parse_completion(_body(), max_tokens=settings.max_tokens)
        generation = engine.begin(wanted)
        with ExitStack() as stack:
            stack.callback(generation.cancel)
            stack.enter_context(watch(request.environ.get("gunicorn.socket"), generation.cancel))
            answer = CompletionAnswer(generation)
            if not wanted.stream:
                return answer.whole()
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            response = Response(answer.events(), mimetype="text/event-stream", headers=headers)
            # Closed even if the stream is dropped before its first event, when no `finally` of a generator would run.
            response.call_on_close(stack.pop_all().close)
            return response

    @routes.get("/v1/models")
    def models() -> dict[str, Any]:
        """List the models that answer."""
        return {"object": "list", "data": [model_object(model) for model in catalog.models()]}

    @routes.get("/v1/models/<name>")
    def model(name: str) -> dict[str, Any]:
        """Describe one model."""
        return model_object(catalog.find(name))

    @routes.get("/healthz")
    def healthz() -> dict[str, str]:
        """Say that the process lives."""
        return {"status": "ok"}

    @routes.get("/readyz")
    def readyz() -> dict[str, Any]:
        """Say whether a request would be answered: a model is served, and the server is not draining."""
        drain.refuse_if_begun()
        names = [model.ref.name for model in catalog.models()]
        if not names:
            raise BackendUnavailable("no model answers yet")
        return {"status": "ready", "models": names}

    routes.register_error_handler(GatewayError, _error_response)
    routes.app_errorhandler(HTTPException)(_http_error_response)
    routes.app_errorhandler(Exception)(_unexpected_error_response)
    return routes


def _body() -> bytes:
    """Read the body; its bound is the app's MAX_CONTENT_LENGTH.

    Raises:
        InvalidRequest: it is empty, or shorter than announced.
    """
    body = request.get_data(cache=False)
    if not body:
        raise InvalidRequest("the body must be JSON, got nothing")
    return body


def _error_response(error: GatewayError) -> tuple[dict[str, Any], int, dict[str, str]]:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    return error.body(), error.status, headers


def _http_error_response(error: HTTPException) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Give Flask's own errors OpenAI's shape."""
    if isinstance(error, RequestEntityTooLarge):
        bound = request.max_content_length
        return _error_response(
            BodyTooLarge(f"the body must be at most {bound} bytes, got {request.content_length or 'more'}")
        )
    if isinstance(error, ClientDisconnected) and isinstance(error.__context__, TimeoutError):
        return _error_response(BodyTimeout("the body did not come in time"))
    if error.code == 404:
        return _error_response(NotFound(f"there is nothing at {request.path}"))
    if error.code == 405:
        methods = sorted(getattr(error, "valid_methods", None) or ())
        useful = [method for method in methods if method not in ("HEAD", "OPTIONS")]
        body, status, headers = _error_response(MethodNotAllowed(f"{request.path} takes {', '.join(useful)}"))
        return body, status, {**headers, "Allow": ", ".join(methods)}
    body, _, headers = _error_response(InvalidRequest(error.description or error.name))
    return body, error.code or 400, headers


def _unexpected_error_response(error: Exception) -> tuple[dict[str, Any], int, dict[str, str]]:
    log.error("unexpected error at %r", request.path, exc_info=error)
    return _error_response(InternalError("an unexpected error; the server's log has the trace"))
