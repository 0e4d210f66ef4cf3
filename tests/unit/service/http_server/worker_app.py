"""The WSGI application and the workers with short timeouts that test_worker.py runs under gunicorn.

The application behaves like the gateway: it refuses new work while it drains, and ends `/stream` in time. The other
streams misbehave: `/deaf` continues whatever happens, `/flood` never pauses, `/burst` sends much and then little, and
`/stuck` sends nothing and does not check its client. A query such as `?1.5` ends a stream after 1.5 seconds, and a
request of `/end` ends all streams.
"""

import atexit
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from service.http_server.connection import ConnectionLimits
from service.http_server.worker import StreamingWorker

StartResponse = Callable[[str, list[tuple[str, str]]], object]
TICK_S = 0.05
FAREWELL_S = 0.5
CHUNKS = {"/stream": b"tick\n", "/deaf": b"tick\n", "/flood": b"x" * (1 << 20), "/burst": b"tick\n", "/stuck": b""}


class ImpatientWorker(StreamingWorker):
    """The worker under test, with timeouts that a test can wait for."""

    limits = ConnectionLimits(head_s=1.0, body_s=1.0, write_s=0.5, max_body_bytes=1 << 20)


class SettlingWorker(ImpatientWorker):
    """A worker that still accepts requests for a while before it stops."""

    settle_s = 4.0


class PatientWorker(StreamingWorker):
    """A worker that waits for incomplete requests for longer than any test does."""

    limits = ConnectionLimits(head_s=600.0, body_s=600.0)
    linger_s = 0.2


class CountingWorker(StreamingWorker):
    """A worker that accepts three connections per client address."""

    limits = ConnectionLimits(max_client_connections=3)


class Application:
    """Records what tests check: the drains that were announced and the streams that were closed."""

    def __init__(self) -> None:
        self.drains: list[float] = []
        self.deadline = math.inf
        self.ended: list[str] = []
        self._end = threading.Event()

    def refuses_body(self, path: str, authorization: str) -> bool:
        """Refuse bodies of clients without a key."""
        return path == "/guarded" and authorization != "Bearer key"

    def begin_drain(self, seconds_left: float) -> None:
        self.drains.append(seconds_left)
        self.deadline = time.monotonic() + seconds_left - FAREWELL_S

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/status":
            facts = {"pid": os.getpid(), "drains": self.drains, "ended": self.ended}
            return answer(start_response, "200 OK", json.dumps(facts).encode())
        if path == "/end":
            self._end.set()
            return answer(start_response, "200 OK", b"ok")
        if self.drains:
            return answer(start_response, "503 Service Unavailable", b"draining")
        if path in ("/body", "/guarded"):
            if self.refuses_body(path, environ.get("HTTP_AUTHORIZATION", "")):
                status, body = "401 Unauthorized", b"no key"
            else:
                status, body = "200 OK", environ["wsgi.input"].read()
            return answer(start_response, status, body)
        if path in CHUNKS:
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            return self._stream(path, time.monotonic() + float(environ["QUERY_STRING"] or "inf"))
        return answer(start_response, "200 OK", b"ok")

    def _stream(self, path: str, end: float) -> Iterator[bytes]:
        try:
            yield b"tick\n" * (1 << 16 if path == "/burst" else 1)
            while not self._is_over(end) and (path != "/stream" or time.monotonic() < self.deadline):
                time.sleep(60 if path == "/stuck" else 0 if path == "/flood" else TICK_S)
                yield CHUNKS[path]
            yield b"the end\n" if self._is_over(end) else b"farewell\n"
        finally:
            self.ended.append(path)

    def _is_over(self, end: float) -> bool:
        return self._end.is_set() or time.monotonic() >= end


def answer(start_response: StartResponse, status: str, body: bytes) -> list[bytes]:
    """Send a complete response, after which the connection can be kept."""
    start_response(status, [("Content-Length", str(len(body)))])
    return [body]


atexit.register(lambda: print(f"{os.getpid()} ran its exit handlers", flush=True))
application = Application()
