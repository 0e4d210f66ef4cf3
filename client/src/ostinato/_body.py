"""The body of an open answer: bytes as they arrive, and an end that any thread may bring about."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FINISH_S = 0.2  # the bytes that end an answer come right behind its last event, or else never


class Body:
    """Bytes of an answer, read by one thread and closed by any.

    Iterating it never raises: it ends, and `failure` says whether the connection had failed.
    """

    def __init__(self, response: requests.Response) -> None:
        """Take over an answer that was opened with `stream=True`."""
        self._response = response
        self._reading = threading.RLock()
        # Of a body without chunks, requests would wait for the end if not asked for single bytes.
        self._chunks = response.iter_content(chunk_size=None if response.raw.chunked else 1)
        self.closed = False
        self.failure: requests.RequestException | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers; names are found in any case."""
        return self._response.headers

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes as they arrive, until the answer ends, its connection fails, or it is closed."""
        while True:
            with self._reading:
                chunk = b"" if self.closed else self._read()
            if not chunk:
                return
            yield chunk

    def finish(self) -> None:
        """Read the end of an answer whose last event has come, so that its connection serves the next request."""
        with self._reading, suppress(OSError):
            socket = getattr(self._response.raw.connection, "sock", None)
            if self.closed or socket is None:
                return
            socket.settimeout(FINISH_S)  # urllib3 sets it anew for the connection's next request
            self._read()

    def close(self) -> None:
        """Let go of the answer; the connection goes with it, unless the answer was read to its end. Safe to repeat.

        A thread that is waiting for bytes is woken first (by urllib3 2.3 and later; before, it is waited for).
        """
        self.closed = True
        with suppress(AttributeError, RuntimeError, ValueError, OSError):  # old urllib3, or nothing left to shut down
            self._response.raw.shutdown()
        with self._reading:
            self._response.close()

    def _read(self) -> bytes:
        try:
            return next(self._chunks, b"")
        except requests.RequestException as error:
            self.failure = error
            return b""
