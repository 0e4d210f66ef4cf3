"""Resumption of interrupted streams: the request, the errors, and the time limit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import requests

from sostenuto._assembly import Assembly
from sostenuto._concurrency import opened_unless
from sostenuto._errors import (
    APIError,
    BackendUnavailable,
    ConnectionFailed,
    InternalError,
    InvalidArgument,
    ResumptionFailed,
    ShuttingDown,
    SostenutoError,
    StreamInterrupted,
    Timeout,
)
from sostenuto._fields import is_many
from sostenuto._retries import Backoff, LinkedEvent

_AWAY_STATUSES = frozenset({502, 503})
STATE_INTERVAL = 256  # maximum number of tokens to generate again; a resume token has some kilobytes


class Resumption:
    """Opens a new stream for a generation whose stream was interrupted.

    The server sends a resume token every STATE_INTERVAL tokens, and the new request resumes from the last one. If there
    is none yet, the original request is sent again with its seed.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], requests.Response],
        body: dict[str, Any],
        stopped: LinkedEvent,
        *,
        is_known: bool,
    ) -> None:
        """Prepare to resume the request of a body; `send` opens a stream. If `stopped`, nothing more is sent.

        `is_known`: whether the server has responded before: then it is lost, not at a wrong address.

        Raises:
            InvalidArgument: the request has several sequences, which a single resume token cannot resume.
        """
        prompts = [body.get("prompt") or "", body.get("suffix") or ""]
        if (body.get("n") or 1) > 1 or any(len(prompt) > 1 and is_many(prompt) for prompt in prompts):
            raise InvalidArgument("resume=True needs one prompt and n=1: send one request per completion")
        self._send, self._stopped, self._is_known = send, stopped, is_known
        self._backoff = Backoff(stopped)  # since the last new text
        self._num_characters = 0  # delivered before the last interruption
        # Without max_tokens the remaining number of tokens is unknown.
        if body.get("max_tokens") is not None:
            options = {"state_interval": STATE_INTERVAL, **(body.get("stream_options") or {})}
            body = {**body, "stream_options": options}
        self._body = body

    def open(self) -> requests.Response:
        """Open the first stream; wait for a known server that is lost, as long as a resumption does.

        Raises:
            SostenutoError: the server refuses the request, is unknown, or was unavailable for PATIENCE_S.
        """
        try:
            return self._backoff.attempt(partial(self._send, self._body))
        except (ConnectionFailed, APIError) as error:
            if not (self._is_known and _is_away(error)):
                raise
            response = self._open_patiently(self._body, error)
            if response is None:
                raise
            return response

    def stop(self) -> None:
        """Interrupt a wait and open no more streams. Idempotent, callable from any thread."""
        self._stopped.set()

    @staticmethod
    def is_resumable(error: SostenutoError) -> bool:
        """Return whether the stream can be resumed: its connection or its server was lost."""
        lost = (StreamInterrupted, ShuttingDown, BackendUnavailable, InternalError)
        return isinstance(error, lost) and not isinstance(error, ResumptionFailed)

    def open_next(self, assembly: Assembly) -> requests.Response | None:
        """Back off, then open the stream that resumes; rewind the assembly to the point where it begins.

        Returns None if PATIENCE_S have passed without new text, or the resumption was stopped.

        Raises:
            SostenutoError: the server refuses to resume, or was unreachable for PATIENCE_S.
        """
        num_characters = len(assembly.generation.text)
        if num_characters > self._num_characters:
            self._num_characters, self._backoff.waited_s = num_characters, 0.0
        body = self._next_body(assembly)
        assembly.rewind()
        return self._open_patiently(body)

    def _open_patiently(self, body: dict[str, Any], lost: SostenutoError | None = None) -> requests.Response | None:
        """Back off and open a stream, until that succeeds; see `open_next`. `lost` is the error so far."""
        while True:
            if not self._backoff.wait():
                if lost is not None:
                    raise lost
                return None
            if self._stopped.is_set():
                return None
            try:
                return self._backoff.attempt(lambda: opened_unless(self._stopped, partial(self._send, body)))
            except (ConnectionFailed, APIError, Timeout) as error:
                if self._stopped.is_set():
                    return None
                # A host may be lost before it responds, as it may be during a stream.
                if not (error.retryable or isinstance(error, Timeout)):
                    raise
                lost = error

    def _next_body(self, assembly: Assembly) -> dict[str, Any]:
        point, body = assembly.resume_point, dict(self._body)
        if point is None or body.get("max_tokens") is None:
            assembly.resume_point = None
            seed = assembly.generation.seed
            return body if seed is None else {**body, "seed": seed}
        num_tokens = point.usage["completion_tokens"]
        for field in ("max_tokens", "min_tokens"):
            if body.get(field) is not None:
                body[field] = max(0, body[field] - num_tokens)
        # Labels and prompt are prefilled already, and the resume token determines the model version.
        for field in ("model", "labels", "prompt", "suffix", "echo", "seed"):
            body.pop(field, None)
        return {**body, "state": point.state}


def _is_away(error: SostenutoError) -> bool:
    """Return whether the connection failed, or the server or a proxy in front of it returned 502 or 503."""
    return isinstance(error, ConnectionFailed) or (
        isinstance(error, APIError) and error.retryable and error.status in _AWAY_STATUSES
    )
