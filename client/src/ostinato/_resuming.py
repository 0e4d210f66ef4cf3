"""Resumption of interrupted streams: with which request, and after which errors. Opens no connection."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Callable

from ostinato._errors import (
    APIError,
    BackendUnavailable,
    ConnectionFailed,
    InternalError,
    InvalidArgument,
    OstinatoError,
    ResumptionFailed,
    ShuttingDown,
    StreamInterrupted,
)
from ostinato._events import LinkedEvent
from ostinato._fields import is_many
from ostinato._retries import FIRST_WAIT_S, JITTER, MAX_WAIT_S

if TYPE_CHECKING:
    import requests

    from ostinato._assembly import Assembly

PATIENCE_S = 60.0  # of waiting without new text: a gateway takes some ten seconds to start
STATE_INTERVAL = 256  # maximum number of tokens to generate again; a resume token has some kilobytes


class Resumption:
    """Opens a new stream for a generation whose stream was interrupted.

    The server sends a resume token every STATE_INTERVAL tokens, and the new request resumes from the last one. If there
    is none yet, the original request is sent again with its seed.
    """

    def __init__(
        self, send: Callable[[dict[str, Any]], requests.Response], body: dict[str, Any], stopped: LinkedEvent
    ) -> None:
        """Prepare the request; sends nothing.

        Args:
            send: Opens a stream.
            body: Body of the original request, without `stream`.
            stopped: When set, interrupts waits, and nothing more is sent.

        Raises:
            InvalidArgument: the request has several sequences, which a single resume token cannot resume.
        """
        prompts = [body.get("prompt") or "", body.get("suffix") or ""]
        if (body.get("n") or 1) > 1 or any(len(prompt) > 1 and is_many(prompt) for prompt in prompts):
            raise InvalidArgument("resume=True needs one prompt and n=1: send one request per completion")
        self._send, self._stopped = send, stopped
        # Without max_tokens the remaining number of tokens is unknown.
        if body.get("max_tokens") is not None:
            options = {**(body.get("stream_options") or {}), "state_interval": STATE_INTERVAL}
            body = {**body, "stream_options": options}
        self._body = body

    def open(self) -> requests.Response:
        """Open the first stream."""
        return self._send(self._body)

    def stop(self) -> None:
        """Interrupt a wait and open no more streams. Idempotent, callable from any thread."""
        self._stopped.set()

    @staticmethod
    def is_resumable(error: OstinatoError) -> bool:
        """Return whether the stream can be resumed: its connection or its server was lost."""
        lost = (StreamInterrupted, ShuttingDown, BackendUnavailable, InternalError)
        return isinstance(error, lost) and not isinstance(error, ResumptionFailed)

    def open_next(self, assembly: Assembly, waited_s: float) -> tuple[requests.Response | None, float]:
        """Back off, then open the stream that resumes.

        Args:
            assembly: The chunks so far; rewound to the point where the new stream begins.
            waited_s: Seconds waited so far without new text.

        Returns:
            The stream, or None if attempts lasted PATIENCE_S or were stopped; and the seconds waited by then.

        Raises:
            OstinatoError: the server refuses to resume, or was unreachable for PATIENCE_S.
        """
        body = self._next_body(assembly)
        assembly.rewind()
        lost: OstinatoError | None = None
        while True:
            pause_s = min(max(waited_s, FIRST_WAIT_S), MAX_WAIT_S)  # so that the total wait doubles
            if waited_s + pause_s > PATIENCE_S:
                if lost is not None:
                    raise lost
                return None, waited_s
            if self._stopped.wait(pause_s * (1 - JITTER * random.random())):
                return None, waited_s
            waited_s += pause_s
            try:
                return self._send_unless_stopped(body), waited_s
            except (ConnectionFailed, APIError) as error:
                if self._stopped.is_set():
                    return None, waited_s
                if not error.retryable:
                    raise
                lost = error

    def _send_unless_stopped(self, body: dict[str, Any]) -> requests.Response | None:
        """Open a stream in a separate thread, because `requests` cannot be interrupted while it waits for a response.

        Returns:
            The stream, or None if stopped first; a response that arrives later is closed.
        """
        opened: Future[requests.Response] = Future()
        done = LinkedEvent(self._stopped)

        def send() -> None:
            try:
                response = self._send(body)
            except BaseException as error:
                if opened.set_running_or_notify_cancel():
                    opened.set_exception(error)
            else:
                if opened.set_running_or_notify_cancel():
                    opened.set_result(response)
                else:
                    response.close()
            done.set()

        threading.Thread(target=send, name="ostinato-resume", daemon=True).start()
        try:
            done.wait()
        finally:
            is_abandoned = opened.cancel()
        return None if is_abandoned else opened.result()

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
        # The prompt is prefilled already, and the resume token determines the model version.
        for field in ("model", "prompt", "suffix", "echo", "seed"):
            body.pop(field, None)
        return {**body, "state": point.state}
