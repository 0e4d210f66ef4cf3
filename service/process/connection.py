"""A client connection with read and write time-outs.

Knows one socket and its limits. Does not know the loop that accepts it or the request that it carries.
"""

import math
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

# gunicorn has no types of its own, hence every `type: ignore` in this file.
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http.unreader import SocketUnreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

# More than nginx accepts by default; gunicorn would accept 819 KB on every connection.
MAX_HEAD_BYTES = 64 * 2**10


class HeadTimeout(Exception):
    """The head of a request took too long. Not an OSError: gunicorn logs those with traceback and does not respond."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Time-outs of a client in seconds, and its maximum number of connections.

    The body may stall for `body_s`, and every received byte extends that: a client at `min_body_bytes_per_s` or above
    is never disconnected, one that sends a byte now and then is. Apache's mod_reqtimeout does the same, by default with
    `body=20,MinRate=500`.
    """

    head_s: float = 10.0  # for the whole head
    body_s: float = 30.0
    min_body_bytes_per_s: float = 500.0
    write_s: float = 30.0  # without accepting a byte
    max_client_connections: int | None = None  # per client address; behind a proxy all clients have the proxy's


class TimedUnreader(SocketUnreader):  # type: ignore[misc]
    """gunicorn's socket reader with a time budget that waiting uses up."""

    def expect(self, budget_s: float, *, min_bytes_per_s: float = math.inf) -> None:
        """Reset the time budget for the head or the body of a request; only for a body, received bytes refill it."""
        self.budget_s = self.full_s = budget_s
        self.s_per_byte = 1 / min_bytes_per_s

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the bytes that have arrived, at least one; none if the client has closed the connection.

        Raises:
            HeadTimeout: the budget ran out within a head.
            TimeoutError: the budget ran out within a body. Where MAX_CONTENT_LENGTH is set, Werkzeug raises
                `ClientDisconnected`, status 400, instead, with this error as its `__context__`.
        """
        outer_s, start = self.sock.gettimeout(), time.monotonic()  # gunicorn sets one to skip an unread body
        self.sock.settimeout(min(max(self.budget_s, 0.001), outer_s or math.inf))
        try:
            data: bytes = super().chunk(size_hint)
        except TimeoutError as error:
            raise (error if self.s_per_byte else HeadTimeout("the head of the request took too long")) from None
        finally:
            self.sock.settimeout(outer_s)
        waited_s = time.monotonic() - start
        self.budget_s = min(self.budget_s - waited_s + len(data) * self.s_per_byte, self.full_s)
        return data


class Connection(TConn):  # type: ignore[misc]
    """gunicorn's connection with limits."""

    def __init__(
        self, cfg: Config, limits: ConnectionLimits, sock: socket.socket, address: object, server: object
    ) -> None:
        """Set the write time-outs, which raise BlockingIOError and TimeoutError (socket(7), tcp(7)).

        SO_SNDTIMEO ends a blocked `send`. TCP_USER_TIMEOUT closes the connection when sent data is not acknowledged,
        even if no `send` blocks yet: it detects a client that lost power or network.
        """
        super().__init__(cfg, sock, address, server)
        self.limits = limits
        self.on_close: Callable[[], object] = lambda: None
        self.head = b""  # the received part of an incomplete head, which has no thread yet
        seconds, micros = divmod(round(limits.write_s * 1_000_000), 1_000_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, micros))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limits.write_s * 1000))

    def init(self) -> None:
        """Start the head of a request; gunicorn calls this before it parses each."""
        super().init()
        if not isinstance(self.parser.unreader, TimedUnreader):
            self.parser.unreader = TimedUnreader(self.sock)
        self.parser.unreader.unread(self.head)
        self.head = b""
        self.parser.unreader.expect(self.limits.head_s)

    def receive_head(self) -> bool:
        """Receive without blocking; return whether the head is complete or the connection has ended."""
        try:
            data = self.sock.recv(MAX_HEAD_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True
        return self.add_to_head(data) or not data

    def add_to_head(self, data: bytes) -> bool:
        """Append to the received part of a head, dropping empty lines before it; return whether it is complete."""
        if not self.head:
            data = data.lstrip(b"\r\n")
        is_complete = b"\r\n\r\n" in self.head[-3:] + data
        self.head += data
        return is_complete

    def expect_body(self) -> None:
        """Start the body of the request whose head has been parsed."""
        self.parser.unreader.expect(self.limits.body_s, min_bytes_per_s=self.limits.min_body_bytes_per_s)

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 (gunicorn's signature)
        """Close at once. gunicorn calls this on the accept thread; `StreamingWorker.handle` has lingered before."""
        on_close, self.on_close = self.on_close, lambda: None
        on_close()
        util.close(self.sock)
