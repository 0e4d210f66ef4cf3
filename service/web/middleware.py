"""Middleware: request id, Host, origin, API key and trace; then security headers, metrics and the access log."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask, Response, g, request

from service.access.auth import Authenticator
from service.context import RequestContext
from service.http_server.addresses import AllowedHosts
from service.memory_budget import MemoryBudget
from service.observability.logs import request_id
from service.observability.metrics import Metrics
from service.observability.tracing import Tracing
from service.web.access_log import RequestLog
from service.web.blueprint import public_endpoints
from service.web.pages import PAGES
from service.web.security import add_security_headers, require_allowed_host, require_same_origin

# Flask's names of the endpoints that need no API key.
PUBLIC_ENDPOINTS = PAGES | public_endpoints()


class Middleware:
    """Flask hooks that run before and after every request."""

    def __init__(
        self,
        access: Authenticator,
        metrics: Metrics,
        tracing: Tracing | None,
        hosts: AllowedHosts,
        memory: MemoryBudget,
        *,
        log_prompts: bool,
    ) -> None:
        self._access, self._metrics, self._tracing, self._memory = access, metrics, tracing, memory
        self._hosts, self._log_prompts = hosts, log_prompts

    def register(self, app: Flask) -> None:
        """Register the hooks with an application."""
        app.before_request(self._before)
        app.after_request(self._after)

    def _before(self) -> None:
        g.record = record = RequestLog(request, prompts=self._log_prompts)
        request_id.set(record.request_id)
        if self._tracing is not None:
            record.start_trace(self._tracing, request)
        require_allowed_host(request, self._hosts)
        require_same_origin(request)
        if request.endpoint not in PUBLIC_ENDPOINTS:
            context = self._access.authenticate(request.headers.get("Authorization"))
            record.line.key = context.quota.name or None
            g.context = replace(
                context,
                trace=record.trace,
                memory=self._memory.lease(),
                sender=context.quota.name or request.remote_addr or "",
            )

    def _after(self, response: Response) -> Response:
        record: RequestLog = g.record
        response.headers["x-request-id"] = record.request_id
        add_security_headers(response)
        context: RequestContext | None = g.get("context")
        if context is not None:
            response.call_on_close(context.memory.close)
        # The callback does not hold the response: that cycle would keep the body until a garbage collection. So would
        # the request in its environ.
        response.call_on_close(partial(self._finish, record, response.status_code, request.environ))
        return response

    def _finish(self, record: RequestLog, status: int, environ: dict[str, Any]) -> None:
        """Report a request whose response was sent or aborted."""
        environ.pop("werkzeug.request", None)
        line, seconds = record.line, time.monotonic() - record.started_at
        self._metrics.responded(
            method=line.method, route=line.route, status=status, error_code=line.error, seconds=seconds
        )
        record.close(status, seconds)
        request_id.set(None)
