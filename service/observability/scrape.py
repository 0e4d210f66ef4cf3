"""`GET /metrics` on its own port, so that network access to the port decides who may read the metrics."""

import contextlib
import logging
import socket
import sys
import threading
import time
from collections import deque
from http.server import ThreadingHTTPServer
from typing import Any, ClassVar

from prometheus_client import CollectorRegistry, MetricsHandler

from service.http_server.addresses import is_allowed_host, is_loopback

log = logging.getLogger(__name__)


class _Handler(MetricsHandler):
    timeout = 10.0  # seconds without a byte, reading or writing
    server_version, sys_version = "sostenuto", ""

    def do_GET(self) -> None:
        """Serve a scrape; on loopback refuse a web page whose name resolves to this machine (DNS rebinding)."""
        if is_loopback(str(self.connection.getsockname()[0])) and not is_allowed_host(self.headers.get("Host")):
            self.send_error(421)
        elif self.path.partition("?")[0] == "/metrics":
            super().do_GET()
        else:
            self.send_error(404)


class _Server(ThreadingHTTPServer):
    """A server with one thread per connection, up to a limit: the newest connection replaces the oldest."""

    max_connections: ClassVar[int] = 16
    accept_pause_s: ClassVar[float] = 0.5  # after a failed accept; without descriptors a retry would spin

    def __init__(self, sock: socket.socket, registry: CollectorRegistry) -> None:
        super().__init__(sock.getsockname()[:2], _Handler.factory(registry), bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self._connections: deque[socket.socket] = deque()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            time.sleep(self.accept_pause_s)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, and disconnect the oldest one above the limit."""
        self._connections.append(request)
        if len(self._connections) > self.max_connections:
            # Its thread detects the end of the connection and closes it.
            with contextlib.suppress(OSError):
                self._connections.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(ValueError):
            self._connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 (socketserver's signature)
        """Log an exception, unless the scraper disconnected."""
        if not isinstance(sys.exception(), OSError):
            log.exception("a scrape failed")


def serve_metrics(sock: socket.socket, registry: CollectorRegistry) -> ThreadingHTTPServer:
    """Serve `GET /metrics` on a daemon thread; return the server, which owns the listening socket from now on."""
    server = _Server(sock, registry)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
