"""A client connection that receives requests without a thread, with read and write time-outs."""

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# gunicorn has no types of its own, hence every `type: ignore` in this file.
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.config import Config  # type: ignore[import-untyped]
from gunicorn.http import Request  # type: ignore[import-untyped]
from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

from service.errors import BodyTooLarge, GatewayError, InvalidRequest
from service.memory import MemoryLease

# More than nginx accepts by default; gunicorn would accept 819 KB on every connection.
MAX_HEAD_BYTES = 64 * 2**10
UPLOAD_PATH = "/v1/files"
# Bytes of a body received per call, which releases the interpreter's lock; getting it back may take 5 ms.
_RECEIVE_BYTES = 256 * 2**10
# A streaming JSON encoder sends chunks of a few bytes: small bodies may be sent that way.
FREE_CHUNKS = 4096
# Minimum average size of further chunks: 4 MiB have at most 20,000, parsed in 0.07 s; one-byte chunks took 11 s.
MIN_AVERAGE_BYTES = 256
# gunicorn's limit of a chunk's size line; with extensions, which may make a body longer than its content.
_MAX_LINE_BYTES = 8190
_MAX_TRAILER_BYTES = 64 * 2**10
_FIRST_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[^\r]*)?\r\n")
# From the end of the chunk before.
_LINE = re.compile(rb"\r\n" + _FIRST_LINE.pattern)
# Type and major version of a TLS record with a ClientHello: the client uses https://.
TLS_HANDSHAKE = b"\x16\x03"


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits of a client: time-outs in seconds, the size of a body, and the number of connections.

    The body may stall for `body_s`, which every received byte extends: a client at `min_body_bytes_per_s` or above is
    never disconnected, one that trickles bytes is. Apache's mod_reqtimeout does the same, by default with
    `body=20,MinRate=500`.
    """

    head_s: float = 10.0  # for the whole head
    body_s: float = 30.0
    min_body_bytes_per_s: float = 500.0
    max_body_bytes: int = 4 * 2**20
    max_upload_bytes: int = 32 * 2**20  # of a body that is sent to `UPLOAD_PATH`
    write_s: float = 30.0  # without accepting a byte
    max_client_connections: int | None = None  # per client address; behind a proxy all clients have the proxy's


class ReceivedBytes(Unreader):  # type: ignore[misc]
    """gunicorn's reader over bytes that have been received: it never waits for the client."""

    def __init__(self) -> None:
        super().__init__()
        self.received = bytearray()  # follows the content of gunicorn's own buffer

    @property
    def num_bytes(self) -> int:
        return int(self.buf.getbuffer().nbytes) + len(self.received)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return the next bytes, as many as a socket would; none at the end."""
        size = min(max(size_hint or 0, 8 * 2**10), 2**20)
        with memoryview(self.received) as view:
            data = bytes(view[:size])
        del self.received[:size]
        return data

    def take_buffered(self) -> bytes:
        data: bytes = super().take_buffered() + bytes(self.received)
        self.received = bytearray()
        return data


class HeadParser(RequestParser):  # type: ignore[misc]
    """gunicorn's parser in two steps: the accept thread parses a head, and a pool thread gets the result by `next`."""

    def __init__(self, cfg: Config, address: object) -> None:
        super().__init__(cfg, (), address)
        self.unreader = ReceivedBytes()
        self.result: Request | Exception | None = None

    def parse(self, head: bytes) -> None:
        """Parse a head, followed by the first bytes of its body; gunicorn's exceptions are a result too."""
        self.unreader.unread(head)
        try:
            self.result = super().__next__()
        except Exception as error:
            self.result = error

    def __next__(self) -> Request:
        """Return the request whose head has been parsed, or raise the error."""
        result, self.result = self.result, None
        try:
            if isinstance(result, Exception):
                raise result
            return result
        finally:
            del result  # its traceback refers to this frame, and that cycle would keep the received bytes


class ChunkScanner:
    """Finds the end of a chunked request body while it arrives, and limits its chunks.

    Each chunk costs the same time, however small. gunicorn's reader checks the content of chunks.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._end = 0  # of the last chunk's data
        self._num_chunks = self._num_bytes = 0
        self._is_last = False

    def is_complete(self, received: bytearray) -> bool:
        """Return whether gunicorn's reader needs no further bytes: the body has ended, or is malformed.

        `received` is the body from its first byte, a continuation of what was passed before.

        Raises:
            InvalidRequest: there are too many small chunks.
            BodyTooLarge: the body exceeds the limit.
        """
        if len(received) > 2 * self._max_body_bytes + _MAX_TRAILER_BYTES:
            raise self._too_large()
        while not self._is_last:
            line = (_LINE if self._end else _FIRST_LINE).match(received, self._end)
            if line is None:
                return self._is_malformed(received)
            size = int(line[1], 16)
            self._count(size)
            self._end, self._is_last = line.end() + size, not size
        has_ended = received.startswith(b"\r\n", self._end) or received.find(b"\r\n\r\n", self._end) >= 0
        return has_ended or len(received) - self._end > _MAX_TRAILER_BYTES

    def _is_malformed(self, received: bytearray) -> bool:
        """Return whether the bytes after the last chunk cannot begin another one."""
        following = received[self._end : self._end + _MAX_LINE_BYTES]
        if self._end:
            if not b"\r\n".startswith(following[:2]):
                return True
            del following[:2]
        return b"\r\n" in following or len(following) >= _MAX_LINE_BYTES - 2

    def _count(self, size: int) -> None:
        self._num_chunks += 1
        if self._num_chunks > FREE_CHUNKS + self._num_bytes // MIN_AVERAGE_BYTES:
            raise InvalidRequest(
                f"the chunks of a body must have {MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}, "
                f"got {self._num_chunks} chunks with {self._num_bytes} bytes"
            )
        self._num_bytes += size
        if self._num_bytes > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body must be at most {self._max_body_bytes} bytes, got more")


class Connection(TConn):  # type: ignore[misc]
    """gunicorn's connection with limits, which collects a request before it needs a thread."""

    def __init__(
        self,
        cfg: Config,
        limits: ConnectionLimits,
        memory: MemoryLease,
        sock: socket.socket,
        address: object,
        server: object,
    ) -> None:
        """Set the write time-outs, which raise BlockingIOError and TimeoutError (socket(7), tcp(7)).

        SO_SNDTIMEO ends a blocked `send`. TCP_USER_TIMEOUT closes the connection when sent data is not acknowledged,
        even if no `send` blocks yet: it detects a client that lost power or network.
        """
        super().__init__(cfg, sock, address, server)
        self.limits, self.memory = limits, memory
        self.parser, self.data_ready = HeadParser(cfg, address), True
        self.on_close: Callable[[], object] = lambda: None
        # Whether the application refuses a request regardless of its body; the worker sets it.
        self.refuses_body: Callable[[Any], bool] = lambda _: False
        self.head = b""  # the received part of an incomplete head
        self.is_closed = False  # by the client, before the end of a head
        self.is_health_check = False  # whether it has a thread of health checks; the worker sets it
        self._chunks: ChunkScanner | None = None
        self.expect_head()
        seconds, micros = divmod(round(limits.write_s * 1_000_000), 1_000_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", seconds, micros))
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(limits.write_s * 1000))

    @property
    def request(self) -> Any:
        """The request with a parsed head whose body is being received, or that waits for a thread."""
        result = self.parser.result
        return None if isinstance(result, Exception) else result

    @property
    def _max_body_bytes(self) -> int:
        return self.limits.max_upload_bytes if self.request.path == UPLOAD_PATH else self.limits.max_body_bytes

    @property
    def num_bytes(self) -> int:
        """Number of received bytes of an incomplete body."""
        return len(self.parser.unreader.received)

    def expect_head(self) -> None:
        """Start the time of the next request's head."""
        self.idle_since = time.monotonic()  # each received byte of a body moves it forward
        self.timeout = self.idle_since + self.limits.head_s  # when the head, and later the body, has to be complete

    def receive(self) -> bool:
        """Receive without blocking; return whether a request is complete or to be refused, or the client has closed.

        Raise MemoryExhausted, before anything is received, if incomplete bodies hold too much memory.
        """
        size = self._reserve()
        try:
            data = self.sock.recv(size)
        except (BlockingIOError, InterruptedError):
            self.memory.shrink(self.num_bytes)
            return False
        except OSError:
            data = b""
        if self.request is not None:
            return self._add_to_body(data)
        if not data:
            self.is_closed = True
            return True
        # Most clients send the body right after the head: by now it has arrived.
        return self.add(data) or (self.request is not None and self.receive())

    def _reserve(self) -> int:
        """Reserve memory for the next bytes; return their maximum number."""
        if self.request is None:
            return MAX_HEAD_BYTES
        if self._chunks is None:
            size = min(_RECEIVE_BYTES, int(self.request.body.reader.length) - self.num_bytes)
        else:
            size = MAX_HEAD_BYTES  # they may include the head of the next request
        self.memory.hold(self.num_bytes + size, "the body")
        return size

    def add(self, data: bytes) -> bool:
        """Append to the head, dropping empty lines before it; return whether a request is complete or to be refused."""
        if not self.head:
            data = data.lstrip(b"\r\n")
        has_ended = b"\r\n\r\n" in self.head[-3:] + data
        self.head += data
        if not has_ended:
            return False
        self.parser.parse(self.head)
        self.head = b""
        return self.request is None or self._start_body()

    def _start_body(self) -> bool:
        """Return whether the whole body was received with the head, or is not to be received at all."""
        reader, unreader = self.request.body.reader, self.parser.unreader
        self._chunks = None
        if not isinstance(reader, ChunkedReader):
            if reader.length <= unreader.num_bytes:
                return True
            if reader.length > self._max_body_bytes:
                return self._end_early()
        # The body of a GET has no meaning (RFC 9110, 9.3.1): a stream of events would hold it to its end.
        if self.request.method in ("GET", "HEAD") or self.refuses_body(self.request):
            return self._end_early()
        if isinstance(reader, ChunkedReader):
            self._chunks = ChunkScanner(self._max_body_bytes)
        unreader.received = bytearray(unreader.take_buffered())
        if self._is_complete():
            return True
        if self.request._expected_100_continue:
            with contextlib.suppress(OSError):
                self.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.request._expected_100_continue = False
        self.idle_since = time.monotonic()
        self.timeout = self.idle_since + self.limits.body_s
        return False

    def _add_to_body(self, data: bytes) -> bool:
        unreader, limits = self.parser.unreader, self.limits
        unreader.received += data
        self.memory.shrink(self.num_bytes)
        if not data:
            return self._end_early()
        extended = self.timeout + len(data) / limits.min_body_bytes_per_s
        self.timeout = min(extended, time.monotonic() + limits.body_s)
        self.idle_since = self.timeout - limits.body_s
        return self._is_complete()

    def _is_complete(self) -> bool:
        received = self.parser.unreader.received
        if self._chunks is None:
            return bool(len(received) >= self.request.body.reader.length)
        try:
            return self._chunks.is_complete(received)
        except GatewayError as error:
            error.release()
            self.parser.result = error
            received.clear()
            return True

    def _end_early(self) -> bool:
        """Let the application refuse an incomplete body, and close the connection afterwards."""
        self.request.force_close()
        self.request._expected_100_continue = False
        return True

    def close(self, graceful: bool = False) -> None:  # noqa: ARG002 (gunicorn's signature)
        """Close at once. gunicorn calls this on the accept thread; `StreamingWorker.handle` has lingered before."""
        on_close, self.on_close = self.on_close, lambda: None
        on_close()
        self.memory.close()
        util.close(self.sock)
