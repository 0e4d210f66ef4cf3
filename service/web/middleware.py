"""Middleware: request id, Host, origin, API key, trace; then errors, security headers, metrics and the access log."""

import logging
import random
import re
import time
from functools import partial
from typing import Any

from flask import Flask, Request, Response, g, request
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]  # it has no types
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from service.access.auth import Authenticator, is_local
from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest, NextRequest, ScoreRequest
from service.context import RequestContext
from service.errors import (
    BodyTooLarge,
    CrossOrigin,
    GatewayError,
    HostNotAllowed,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
)
from service.generation.running_request import RunningRequest
from service.http_server.addresses import ANY, is_allowed_host
from service.memory import MemoryBudget, MemoryLease
from service.observability.logs import AccessLogLine, log_request, request_id
from service.observability.metrics import Metrics
from service.observability.tracing import TRACE_HEADERS, Trace, Tracing
from service.settings import Settings
from service.web.endpoint import ENDPOINTS
from service.web.pages import PAGES, not_found_page

log = logging.getLogger(__name__)

# Flask's names of the endpoints that need no API key.
PUBLIC_ENDPOINTS = PAGES | {endpoint.view.__name__ for endpoint in ENDPOINTS if endpoint.public}
# A valid X-Request-Id; any other value is replaced by a generated id.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
MAX_SHOWN = 60  # characters of a header in a message
# Characters of the requested model in the log and the trace: a name, and a version or a label. A client may send more.
_MAX_MODEL = 100
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    # Pages set their own policies; nothing in other responses may be executed, loaded or framed.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

ErrorResponse = tuple[dict[str, Any], int, dict[str, str]]


class RequestLog:
    """The log line and the trace of one request, filled in while it is handled."""

    def __init__(self, incoming: Request, tracing: Tracing | None, *, prompts: bool) -> None:
        client_id = incoming.headers.get("X-Request-Id", "")
        self.request_id = client_id if _REQUEST_ID.fullmatch(client_id) else f"req-{random.randbytes(12).hex()}"
        self.started_at = time.monotonic()
        self.line = AccessLogLine(
            incoming.method,
            incoming.url_rule.rule if incoming.url_rule else None,
            incoming.path,
            client=incoming.remote_addr,
            user_agent=incoming.headers.get("User-Agent"),
        )
        self.trace = self._begin_trace(tracing, incoming) if tracing else None
        self._error: GatewayError | None = None
        self._log_prompts = prompts

    def _begin_trace(self, tracing: Tracing, incoming: Request) -> Trace | None:
        headers = {name: incoming.headers[name] for name in TRACE_HEADERS if name in incoming.headers}
        return tracing.begin_request(
            headers, method=incoming.method, route=self.line.route, path=incoming.path, scheme=incoming.scheme
        )

    def record_request(
        self, body: CompletionRequest | EmbeddingsRequest | InspectRequest | NextRequest | ScoreRequest
    ) -> None:
        """Record the parsed request, with prompts and suffixes only if they may be logged."""
        self.line.model = model = body.model and body.model[:_MAX_MODEL]
        self.line.stream = isinstance(body, CompletionRequest) and body.stream
        if self.trace:
            is_embedding = isinstance(body, EmbeddingsRequest)
            self.trace.set_request(model, "embeddings" if is_embedding else "text_completion")
        if self._log_prompts:
            self.line.prompt = list(body.prompts)
            if isinstance(body, CompletionRequest) and any(body.suffixes):
                self.line.suffix = list(body.suffixes)

    def record_error(self, error: GatewayError) -> None:
        self._error, self.line.error = error, error.code or error.type

    def record_result(self, running: RunningRequest) -> None:
        line, version = self.line, running.model.ref
        line.model, line.version = line.model or version.name, version.number
        line.prompt_tokens, line.completion_tokens = running.total_prompt_tokens, running.num_completion_tokens
        line.finish_reasons = running.finish_reasons
        if self.trace:
            self.trace.set_result(
                version=version.number,
                num_prompt_tokens=running.total_prompt_tokens,
                num_completion_tokens=running.num_completion_tokens,
                reasons=running.finish_reasons,
            )

    def close(self, status: int, seconds: float) -> None:
        """Write the line and end the trace, `seconds` after the start."""
        self.line.status, self.line.duration_ms = status, 1000 * seconds
        log_request(self.line)
        if self.trace:
            self.trace.end(status, self._error)


class Middleware:
    """Flask hooks that run before and after every request, and its error handlers."""

    def __init__(
        self, access: Authenticator, metrics: Metrics, tracing: Tracing | None, memory: MemoryBudget, settings: Settings
    ) -> None:
        self._access, self._metrics, self._tracing, self._memory = access, metrics, tracing, memory
        self._hosts, self._log_prompts = allowed_hosts(settings), settings.log_prompts

    def register(self, app: Flask) -> None:
        app.before_request(self._before)
        app.after_request(self._after)
        app.register_error_handler(GatewayError, error_response)
        app.register_error_handler(HTTPException, _http_error)
        app.register_error_handler(ParseException, _malformed_chunks)
        app.register_error_handler(Exception, _unexpected_error)

    def _before(self) -> None:
        g.request_log = request_log = RequestLog(request, self._tracing, prompts=self._log_prompts)
        request_id.set(request_log.request_id)
        require_allowed_host(request, self._hosts)
        require_same_origin(request)
        if request.endpoint not in PUBLIC_ENDPOINTS:
            context = self._access.authenticate(request.headers.get("Authorization"))
            request_log.line.key = context.key or None
            context.trace, context.memory = request_log.trace, MemoryLease(self._memory)
            context.sender = context.key or request.remote_addr or ""
            g.context = context

    def _after(self, response: Response) -> Response:
        request_log: RequestLog = g.request_log
        response.headers["x-request-id"] = request_log.request_id
        add_security_headers(response)
        context: RequestContext | None = g.get("context")
        if context is not None:
            response.call_on_close(context.memory.close)
        # The callback does not hold the response, nor the request in its environ: the cycle would keep the body until a
        # garbage collection.
        response.call_on_close(partial(self._finish, request_log, response.status_code, request.environ))
        return response

    def _finish(self, request_log: RequestLog, status: int, environ: dict[str, Any]) -> None:
        """Report a request whose response was sent or aborted."""
        environ.pop("werkzeug.request", None)
        line, seconds = request_log.line, time.monotonic() - request_log.started_at
        self._metrics.responded(
            method=line.method, route=line.route, status=status, error_code=line.error, seconds=seconds
        )
        request_log.close(status, seconds)
        request_id.set(None)


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """Return the allowed Host names: those of the settings; else only localhost on loopback without proxies, else any.

    A proxy in front passes on its own host name, and beyond loopback the server may have any name.
    """
    if settings.allowed_hosts is not None:
        return frozenset(name.strip().lower() for name in settings.allowed_hosts.split(","))
    return frozenset() if is_local(settings) else frozenset([ANY])


def require_allowed_host(request: Request, hosts: frozenset[str]) -> None:
    """Raise HostNotAllowed unless the Host header has a name of this server."""
    host = request.headers.get("Host")
    if not is_allowed_host(host, hosts):
        raise HostNotAllowed(
            f"Host must be localhost, an IP address or a name in SOSTENUTO_ALLOWED_HOSTS, got {host!r:.{MAX_SHOWN}}"
        )


def require_same_origin(request: Request) -> None:
    """Raise CrossOrigin for a request with an unsafe method from a page of another origin.

    A browser sends a text/plain POST without a CORS preflight. Sec-Fetch-Site decides where it is present (over HTTPS
    and to loopback); otherwise Origin must be this server. Other clients send neither. Go's http.CrossOriginProtection
    does the same.
    """
    if request.method in _SAFE_METHODS:
        return
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:
        is_own = origin is None or origin.partition("://")[2] == request.headers.get("Host")
    if not is_own:
        raise CrossOrigin(
            f"a web page may only call its own origin, got a request from {origin!r:.{MAX_SHOWN}}: call the API from a "
            "program, or serve the page from this origin"
        )


def add_security_headers(response: Response) -> None:
    """Add the security headers that a response does not set itself."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def error_response(error: GatewayError) -> ErrorResponse:
    """Return body, status and headers, and record the error for the access log, metrics and trace."""
    g.request_log.record_error(error)
    response = error.body(), error.status, error.headers()
    error.release()
    return response


def _http_error(error: HTTPException) -> ErrorResponse | Response:
    if isinstance(error, RequestEntityTooLarge):
        limit, length = request.max_content_length, request.content_length
        if length is None or limit is None or length > limit:
            return error_response(BodyTooLarge(f"the body must be at most {limit} bytes, got {length or 'more'}"))
        # Werkzeug's other limits have no message.
        fields, parts = request.max_form_memory_size, request.max_form_parts
        message = f"the form must have at most {fields} bytes besides its file, and at most {parts} fields"
        return error_response(BodyTooLarge(message))
    if error.code == 404:
        return not_found_page() or error_response(NotFound(f"there is no endpoint {request.path}"))
    if error.code == 405:
        methods = sorted(getattr(error, "valid_methods", None) or ())
        useful = [method for method in methods if method not in ("HEAD", "OPTIONS")]
        message = f"{request.path} accepts only {', '.join(useful)}, got {request.method}"
        body, status, headers = error_response(MethodNotAllowed(message))
        return body, status, {**headers, "Allow": ", ".join(methods)}
    body, _, headers = error_response(InvalidRequest(error.description or error.name))
    return body, error.code or 400, headers


def _malformed_chunks(error: Exception) -> ErrorResponse:
    return error_response(InvalidRequest(f"the body's chunked encoding is malformed: {type(error).__name__}"))


def _unexpected_error(error: Exception) -> ErrorResponse:
    log.error("unexpected error at %r", request.path, exc_info=error)
    return error_response(InternalError("internal error; see the gateway's log"))
