"""A real HTTP server on a free loopback port; a test writes its responses in advance.

A response is a function that receives the request's handler and writes to it; `scripted_responses` has the usual ones.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message

Answer = Callable[["Handler"], None]

PATIENCE_S = 20.0  # for what should happen immediately; a test that uses it up has failed


@dataclass(frozen=True)
class Received:
    """A request as the server received it."""

    method: str
    path: str
    headers: Message
    body: Any
    client_port: int  # the same port means the same connection


@dataclass
class ScriptedServer:
    """A server that gives the script's responses in order, one per request, and records the requests."""

    script: list[Answer] = field(default_factory=list)
    requests: list[Received] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        self._http = _HTTPServer(("127.0.0.1", 0), Handler)
        self._http.scripted = self
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def bodies(self):
        return [request.body for request in self.requests]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    """A handler that records each request and runs the script's next response."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _HTTPServer
    received: Received  # the current request

    def log_message(self, *_):
        """Log nothing."""

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def write_chunk(self, data):
        """Write one chunk of a chunked body; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def hang_up(self):
        """Close the connection immediately, even if a body was announced."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def wait_until_client_leaves(self):
        """Keep the connection open until the client has closed it, and set the server's `left`."""
        self.close_connection = True
        self.connection.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            if self.connection.recv(1):
                return
        self.server.scripted.left.set()

    def _answer(self):
        scripted = self.server.scripted
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        is_json = self.headers.get("Content-Type") == "application/json"
        body = json.loads(content) if content and is_json else content or None
        self.received = Received(self.command, self.path, self.headers, body, self.client_address[1])
        scripted.requests.append(self.received)
        if scripted.script:
            scripted.script.pop(0)(self)
        else:
            self.send_error(418, "the script is over")

    do_GET = do_POST = do_PATCH = do_DELETE = _answer


class _HTTPServer(ThreadingHTTPServer):
    """An HTTP server that holds its script and ignores clients that disconnect."""

    daemon_threads = True
    scripted: ScriptedServer

    def handle_error(self, *_):
        """Ignore the error: clients that disconnect are part of the tests."""
