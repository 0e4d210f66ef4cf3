"""The fields that are logged and traced when a request ends.

Knows the fields. Does not know where they are reported.
"""

import re
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from flask import Request

from service.api.requests import CompletionRequest, EmbeddingsRequest, InspectRequest
from service.errors import GatewayError
from service.observability.tracing import Trace, Tracing

# A valid X-Request-Id; any other value is replaced by a generated id.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestLog:
    """The fields of one request's log line, collected while it is handled.

    Attributes:
        request_id: The client's X-Request-Id if valid, else a generated one.
        started_at: Monotonic seconds.
        route: The URL rule that matched, or None.
        error: The error that the request failed with, or None.
        trace: The span of the request, or None if it is not traced.
        details: Fields of the log line.
    """

    def __init__(self, incoming: Request, *, prompts: bool) -> None:
        client_id = incoming.headers.get("X-Request-Id", "")
        self.request_id = client_id if _REQUEST_ID.fullmatch(client_id) else f"req-{secrets.token_hex(12)}"
        self.started_at = time.monotonic()
        self.route = incoming.url_rule.rule if incoming.url_rule else None
        self.error: GatewayError | None = None
        self.trace: Trace | None = None
        self.details: dict[str, Any] = {
            "method": incoming.method,
            "path": incoming.path,
            "client": incoming.remote_addr,
            "user_agent": incoming.headers.get("User-Agent"),
        }
        self._log_prompts = prompts
        self._scope = ExitStack()

    def record_request(self, body: CompletionRequest | EmbeddingsRequest | InspectRequest) -> None:
        """Record the parsed request, with prompts and suffixes only if they may be logged."""
        self.details |= {"model": body.model, "stream": isinstance(body, CompletionRequest) and body.stream}
        if self.trace:
            self.trace.asked(body.model, "embeddings" if isinstance(body, EmbeddingsRequest) else "text_completion")
        if self._log_prompts:
            self.details["prompt"] = list(body.prompts)
            if isinstance(body, CompletionRequest) and any(body.suffixes):
                self.details["suffix"] = list(body.suffixes)

    def start_trace(self, tracing: Tracing, incoming: Request) -> None:
        """Start the request's trace, which `close` ends."""
        self.trace = self._scope.enter_context(
            tracing.request(
                incoming.headers, method=incoming.method, route=self.route, path=incoming.path, scheme=incoming.scheme
            )
        )

    def close(self, status: int) -> None:
        """End the trace."""
        if self.trace:
            self.trace.responded(status, self.error)
        self._scope.close()

    def record_error(self, error: GatewayError) -> None:
        """Record the error."""
        self.error = error

    def record_result(
        self, *, model: str, version: int, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """Record the outcome, and the model if the request named none."""
        self.details |= {
            "model": self.details.get("model") or model,
            "version": version,
            "prompt_tokens": num_prompt_tokens,
            "completion_tokens": num_completion_tokens,
            "finish_reasons": reasons,
        }
        if self.trace:
            self.trace.finished(
                version=version,
                num_prompt_tokens=num_prompt_tokens,
                num_completion_tokens=num_completion_tokens,
                reasons=reasons,
            )
