"""Server-sent events: the body of a streamed response, and the events in its bytes.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import requests

from sostenuto._errors import UnexpectedResponse
from sostenuto._responses import json_or_none

DONE = "[DONE]"
FINISH_S = 0.2  # the bytes that end a response follow right after its last event, or never
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Body:
    """Bytes of a response, read by one thread and closed by any.

    Iteration never raises: it ends, and `failure` holds the connection error, if there was one.

    Attributes:
        headers: The response's headers; lookup is case-insensitive.
        is_complete: bool. Whether the last event, [DONE], has arrived.
    """

    def __init__(self, response: requests.Response) -> None:
        """Take ownership of a response that was opened with `stream=True`."""
        self._response = response
        self._reading = threading.RLock()
        # Without chunked encoding, requests would buffer until the end of the body unless asked for single bytes.
        self._chunks = response.iter_content(chunk_size=None if response.raw.chunked else 1)
        self.headers: Mapping[str, str] = response.headers
        self.closed = self.is_complete = False
        self.failure: requests.RequestException | None = None

    def __iter__(self) -> Iterator[bytes]:
        """Yield bytes as they arrive, until the response ends, the connection fails, or it is closed."""
        while True:
            with self._reading:
                chunk = b"" if self.closed else self._read()
            if not chunk:
                return
            yield chunk

    def finish(self) -> None:
        """Read the end of a response after its last event, so that the connection can be reused."""
        self.is_complete = True
        with self._reading, suppress(OSError):
            socket = getattr(self._response.raw.connection, "sock", None)
            if self.closed or socket is None:
                return
            socket.settimeout(FINISH_S)  # urllib3 resets it for the connection's next request
            self._read()

    def close(self) -> None:
        """Close the response. Its connection closes too, unless the response was read to its end. Idempotent.

        Wakes a thread that is waiting for bytes first (urllib3 2.3 and later; with earlier versions, waits for it).
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


def json_events(body: Body, chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each event in the chunks of a body, until [DONE], their end, or the close of the body.

    Raises:
        UnexpectedResponse: an event is something else.
    """
    for data in decode(chunks):
        if body.closed:
            return
        if data == DONE:
            body.finish()
            return
        event = json_or_none(data)
        if not isinstance(event, dict):
            raise UnexpectedResponse(f"an event has {data!r:.40} instead of a JSON object: check base_url")
        yield event


def decode(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each event as soon as its last byte arrives; drop a last event without its blank line.

    Ignores comments and fields other than `data`. Bytes that are not UTF-8 become U+FFFD.
    """
    data: list[str] = []
    for number, content in enumerate(_lines(chunks)):
        # The stream, not a line, may start with a byte order mark.
        line = content.decode("utf-8" if number else "utf-8-sig", errors="replace")
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            event = "\n".join(data)
            data.clear()
            yield event


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of chunks that are split at any byte, without their ends."""
    parts: list[bytes] = []  # of the unfinished line, joined once: a long line costs linear time
    after_cr = False  # the last byte was \r: a following \n belongs to the same line end
    for chunk in filter(None, chunks):
        rest = chunk.removeprefix(b"\n") if after_cr else chunk
        after_cr = rest.endswith(b"\r")
        *ends, rest = _LINE_END.split(rest)
        for end in ends:
            yield b"".join([*parts, end])
            parts.clear()
        parts.append(rest)
