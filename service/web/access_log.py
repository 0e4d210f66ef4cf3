"""What is to be said of one request when it is over.

Knows facts. Does not know where they are reported.
"""

import re
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from flask import Request

from service.api.parameters import PromptText
from service.errors import GatewayError
from service.observability.tracing import Trace, Tracing

# What a client may call its request; anything else gets an id of ours.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestLog:
    """The facts, as they come to be known.

    Attributes:
        request_id: The client's own, if it gave one that can be used.
        started_at: Monotonic seconds.
        route: The rule that was matched.
        error: How it failed, if it did.
        trace: What the tracing keeps of it, if it is traced.
        details: Fields of the line in the log.
    """

    def __init__(self, incoming: Request, *, prompts: bool) -> None:
        given = incoming.headers.get("X-Request-Id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
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

    def asked(
        self, model: str | None, prompts: Iterable[PromptText], *, stream: bool, suffixes: tuple[PromptText, ...] = ()
    ) -> None:
        """Note what a request wants, and its prompts and suffixes if they may be logged."""
        self.details |= {"model": model, "stream": stream}
        if self.trace:
            self.trace.asked(model, "embeddings" if (self.route or "").endswith("embeddings") else "text_completion")
        if self._log_prompts:
            self.details["prompt"] = list(prompts)
            if any(suffixes):
                self.details["suffix"] = list(suffixes)

    def follow(self, tracing: Tracing, incoming: Request) -> None:
        """Trace the request until it is closed."""
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

    def failed(self, error: GatewayError) -> None:
        """Note how it failed."""
        self.error = error

    def made(
        self, *, model: str, version: int, num_prompt_tokens: int, num_completion_tokens: int, reasons: Iterable[str]
    ) -> None:
        """Note what became of it, and which model it was of, if the request left that open."""
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
