"""How a stream that broke off is gone on with: by which request, and after which errors. It opens no connection."""

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
from ostinato._retries import FIRST_WAIT_S, JITTER, MAX_WAIT_S

if TYPE_CHECKING:
    import requests

    from ostinato._assembly import Assembly

PATIENCE_S = 60.0  # of waiting without anything new: a gateway takes some ten seconds to start
STATE_INTERVAL = 256  # tokens that are drawn anew at most; a state has some kilobytes


class Resumption:
    """Opens the next stream of a text whose last one broke off.

    The server is asked for a state every so many tokens, and the request after the break goes on from the last one. If
    there is none yet, the first request is sent again with its seed.
    """

    def __init__(
        self, send: Callable[[dict[str, Any]], requests.Response], body: dict[str, Any], stopped: LinkedEvent
    ) -> None:
        """Prepare.

        Args:
            send: Opens a stream.
            body: Of the first request, without `stream`.
            stopped: Once it is set, waits end and nothing more is sent.

        Raises:
            InvalidArgument: the request is of several texts, which no single state goes on with.
        """
        prompts = [body.get("prompt"), body.get("suffix")]
        if (body.get("n") or 1) > 1 or any(_is_several(prompt) for prompt in prompts):
            raise InvalidArgument("resume=True needs one prompt and n=1: send each text by a request of its own")
        self._send, self._stopped = send, stopped
        # Without max_tokens it is not known how many are left.
        if body.get("max_tokens") is not None:
            options = {**(body.get("stream_options") or {}), "state_interval": STATE_INTERVAL}
            body = {**body, "stream_options": options}
        self._body = body

    def open(self) -> requests.Response:
        """Open the first stream."""
        return self._send(self._body)

    def stop(self) -> None:
        """End a wait, and open no further stream. Safe to repeat, from any thread."""
        self._stopped.set()

    @staticmethod
    def is_resumable(error: OstinatoError) -> bool:
        """Whether the text may well be gone on with: its connection, or its server, was lost."""
        lost = (StreamInterrupted, ShuttingDown, BackendUnavailable, InternalError)
        return isinstance(error, lost) and not isinstance(error, ResumptionFailed)

    def open_next(self, so_far: Assembly, waited_s: float) -> tuple[requests.Response | None, float]:
        """Wait a little, and open the stream that goes on.

        Args:
            so_far: What has come; it is set back to where the new stream begins.
            waited_s: Seconds that were waited for something new so far.

        Returns:
            The stream, or None if that has been tried for PATIENCE_S, or was stopped; and the seconds waited by then.

        Raises:
            OstinatoError: the server refuses to go on, or could not be reached for PATIENCE_S.
        """
        body = self._next_body(so_far)
        so_far.rewind()
        lost: OstinatoError | None = None
        while True:
            pause_s = min(max(waited_s, FIRST_WAIT_S), MAX_WAIT_S)  # so that all waits together double
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
                if isinstance(error, APIError) and not error.retryable:
                    raise
                lost = error

    def _send_unless_stopped(self, body: dict[str, Any]) -> requests.Response | None:
        """Open a stream in a thread of its own: `requests` cannot be woken while it waits for an answer.

        Returns:
            The stream, or None if it was stopped first: what comes then is closed.
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

    def _next_body(self, so_far: Assembly) -> dict[str, Any]:
        mark, body = so_far.mark, dict(self._body)
        if mark is None or body.get("max_tokens") is None:
            so_far.mark = None
            seed = so_far.generation.seed
            return body if seed is None else {**body, "seed": seed}
        num_tokens = mark.usage["completion_tokens"]
        for field in ("max_tokens", "min_tokens"):
            if body.get(field) is not None:
                body[field] = max(0, body[field] - num_tokens)
        # The prompt has been read, and the version is the state's.
        for field in ("model", "prompt", "suffix", "echo", "seed"):
            body.pop(field, None)
        return {**body, "state": mark.state}


def _is_several(prompt: Any) -> bool:
    return isinstance(prompt, (list, tuple)) and len(prompt) > 1 and not isinstance(prompt[0], int)
