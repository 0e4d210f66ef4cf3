"""What the access log and the trace report of a request."""

import random
import re
import time
from contextlib import ExitStack

from flask import Request

from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest
from service.errors import GatewayError
from service.generation.running_request import RunningRequest
from service.observability.logs import AccessLogLine, log_request
from service.observability.tracing import TRACE_HEADERS, Trace, Tracing

# A valid X-Request-Id; any other value is replaced by a generated id.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestLog:
    """The log line and the trace of one request, filled in while it is handled."""

    def __init__(self, incoming: Request, *, prompts: bool) -> None:
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
        self.trace: Trace | None = None  # None: it is not traced
        self._error: GatewayError | None = None
        self._log_prompts = prompts
        self._scope = ExitStack()

    def start_trace(self, tracing: Tracing, incoming: Request) -> None:
        """Start the request's trace, which `close` ends."""
        context = {name: incoming.headers[name] for name in TRACE_HEADERS if name in incoming.headers}
        self.trace = self._scope.enter_context(
            tracing.request(
                context, method=incoming.method, route=self.line.route, path=incoming.path, scheme=incoming.scheme
            )
        )

    def record_request(self, body: CompletionRequest | EmbeddingsRequest | InspectRequest) -> None:
        """Record the parsed request, with prompts and suffixes only if they may be logged."""
        self.line.model, self.line.stream = body.model, isinstance(body, CompletionRequest) and body.stream
        if self.trace:
            is_embedding = isinstance(body, EmbeddingsRequest)
            self.trace.set_request(body.model, "embeddings" if is_embedding else "text_completion")
        if self._log_prompts:
            self.line.prompt = list(body.prompts)
            if isinstance(body, CompletionRequest) and any(body.suffixes):
                self.line.suffix = list(body.suffixes)

    def record_error(self, error: GatewayError) -> None:
        """Record the error that ended the request, for its log line and its trace."""
        self._error, self.line.error = error, error.code or error.type

    def record_result(self, running: RunningRequest) -> None:
        """Record the outcome, and the model if the request named none."""
        line, version = self.line, running.model.ref
        line.model, line.version = line.model or version.name, version.number
        line.prompt_tokens, line.completion_tokens = running.num_prompt_tokens, running.num_completion_tokens
        line.finish_reasons = running.finish_reasons
        if self.trace:
            self.trace.set_result(
                version=version.number,
                num_prompt_tokens=running.num_prompt_tokens,
                num_completion_tokens=running.num_completion_tokens,
                reasons=running.finish_reasons,
            )

    def close(self, status: int, seconds: float) -> None:
        """Write the line and end the trace, `seconds` after the start."""
        self.line.status, self.line.duration_ms = status, 1000 * seconds
        log_request(self.line)
        if self.trace:
            self.trace.set_response(status, self._error)
        self._scope.close()
