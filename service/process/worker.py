"""The gunicorn worker: one process, hundreds of threads, one stream a thread.

Knows sockets, threads and signals; knows nothing of Flask or of generation, and must import neither: the arbiter
imports this module in the master process, where no thread may be started.

Pinned to gunicorn 27.0.1, whose request parser is the strictest so far and whose loop costs nothing per running
stream (23.0 waits on every running future at each event). What its `ThreadWorker` lacks is closed here: an accept
thread that lingers on other people's sockets, reads and writes with no time-out, heads that hold a thread, bodies in
any number of chunks, idle connections that keep others out, a worker that dies of EMFILE, and a shutdown that neither
answers new requests nor tells the application. TLS ends at the proxy in front.
"""

import contextlib
import errno
import json
import math
import mmap
import os
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import ClassVar

# gunicorn has no types of its own, hence every `type: ignore` in this file.
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.http import Request  # type: ignore[import-untyped]
from gunicorn.http.errors import (  # type: ignore[import-untyped]
    ExpectationFailed,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

from service.process.chunks import limit_chunks
from service.process.connection import MAX_HEAD_BYTES, Connection, HeadTimeout, Limits

# Errors of the request's head, the first that fits, with the status and the message for the client.
_REFUSALS = (
    (HeadTimeout, (408, "the request's head did not come in time")),
    (LimitRequestLine, (414, "the address is too long")),
    (LimitRequestHeaders, (431, "the headers are too many or too long")),
    (ExpectationFailed, (417, "Expect must be 100-continue or absent")),
    (UnsupportedTransferCoding, (501, "Transfer-Encoding must be chunked or absent")),
    (ParseException, (400, "this is no valid HTTP request")),
)


class StreamingWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that no client can hold up, and that ends its requests before it ends itself.

    On SIGTERM it calls `begin_drain(seconds_left)` of the WSGI application, if it has that, once and from the accept
    thread: it must return at once. New requests still reach the application, which should refuse them with 503. It
    should end its streams within `seconds_left`, which is `graceful_timeout` (when the arbiter kills) less
    `exit_margin_s`; `settle_s` later the rest is cut. SIGINT and SIGQUIT do the same with no seconds left.
    """

    limits: ClassVar[Limits] = Limits()
    linger_s: ClassVar[float] = 1.0  # for the client to close first, so that a reset does not destroy our last bytes
    max_linger_bytes: ClassVar[int] = 4 << 20  # unread body that is thrown away meanwhile
    accept_rest_s: ClassVar[float] = 0.5  # after a failed accept; without descriptors a retry would spin
    settle_s: ClassVar[float] = 0.5  # for requests on their way at SIGTERM, and for the last words at the end
    exit_margin_s: ClassVar[float] = 2.0  # settle_s, exit_timeout_s and a reserve
    exit_timeout_s: ClassVar[float] = 1.0  # for hooks and threads, before the process exits without them

    # The age of the latest worker, shared by every process forked from the arbiter.
    _youngest: ClassVar[mmap.mmap] = mmap.mmap(-1, 8)

    def __init__(self, age: int, *args: object) -> None:
        """Runs in the arbiter, before the fork."""
        super().__init__(age, *args)
        self._youngest[:] = struct.pack("q", age)
        self._running: set[Connection] = set()
        self._num_of_client: Counter[str] = Counter()
        self._accept_at = 0.0
        self._warn_at = 0.0
        self._quit_at = math.inf

    def accept(self, listener: socket.socket) -> None:
        """Take a connection in, to wait for a request without a thread; rest for a moment if that fails."""
        try:
            sock, address = listener.accept()
            conn = Connection(self.cfg, self.limits, sock, address, listener.getsockname())
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                self._rest(error)
            return
        if not self._admit(conn):
            return
        self.nr_conns += 1
        self._expect_head(conn)

    def _expect_head(self, conn: Connection) -> None:
        """Wait for the head of a request, without a thread: clients that send a part of it would hold them all."""
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + self.limits.head_s
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Collect a head, and hand the connection to the pool once it is complete."""
        if conn.receive_head():
            super().on_pending_socket_readable(conn, client)
        elif len(conn.head) > MAX_HEAD_BYTES:
            self._refuse_head(conn, LimitRequestHeaders(f"no end in {len(conn.head)} bytes"))

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Collect the head of a further request."""
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._expect_head(conn)
        self.on_pending_socket_readable(conn, client)

    def murder_pending(self) -> None:
        """Close connections whose head has not arrived in time, with a 408 if part of it had."""
        now = time.monotonic()
        while self.pending_conns and self.pending_conns[0].timeout <= now:
            self._refuse_head(self.pending_conns[0], HeadTimeout())

    def _refuse_head(self, conn: Connection, error: Exception) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self.nr_conns -= 1
        if conn.head:
            self.handle_error(None, conn.sock, conn.client, error)
        conn.close()

    def _admit(self, conn: Connection) -> bool:
        """Count a connection for its client's address, or refuse it as one too many."""
        limit, client = self.limits.max_client_connections, conn.client
        if limit is None or not isinstance(client, tuple):  # a Unix socket has no addresses
            return True
        if self._num_of_client[client[0]] >= limit:
            message = f"an address may have at most {limit} connections at once; try again when one has ended"
            _send_error(conn.sock, 429, message, "rate_limit_error", "Retry-After: 1\r\n")
            conn.close()
            return False
        self._num_of_client[client[0]] += 1
        conn.on_close = partial(self._forget_client, client[0])
        return True

    def _forget_client(self, address: str) -> None:
        self._num_of_client[address] -= 1
        if not self._num_of_client[address]:
            del self._num_of_client[address]

    @property
    def _has_room(self) -> bool:
        return self.nr_conns < self.worker_connections or bool(self.pending_conns or self.keepalived_conns)

    def _make_room(self) -> None:
        """Close the connections that have sent nothing for the longest time, new or kept alive, if there are too many.

        Clients that connect and stay silent could take every place otherwise, and be replaced by others when they are
        timed out: with 2,000 of them a request waited for 20 to 30 s. Not to be called while events are dispatched,
        as one of them may be such a connection's.
        """
        while self.nr_conns > self.worker_connections and (self.pending_conns or self.keepalived_conns):
            conn = self._longest_idle().popleft()
            self.poller.unregister(conn.sock)
            self.nr_conns -= 1
            conn.close()

    def _longest_idle(self) -> "deque[Connection]":
        """Return the queue whose first connection has been idle the longest."""
        pending: deque[Connection] = self.pending_conns
        keepalived: deque[Connection] = self.keepalived_conns
        if not pending or not keepalived:
            return pending or keepalived
        pending_since = pending[0].timeout - self.limits.head_s
        keepalived_since = keepalived[0].timeout - self.cfg.keepalive
        return pending if pending_since < keepalived_since else keepalived

    def _rest(self, error: OSError) -> None:
        now = time.monotonic()
        self._accept_at = now + self.accept_rest_s
        if now >= self._warn_at:
            self._warn_at = now + 60
            self.log.warning("Cannot accept connections, trying again every %g s: %s", self.accept_rest_s, error)

    def enqueue_req(self, conn: Connection) -> None:
        """Hand a connection with something to read to the pool."""
        self._running.add(conn)
        super().enqueue_req(conn)

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Take a connection back from the pool, on the accept thread."""
        self._running.discard(conn)
        if not fs.cancelled() and fs.exception() is None and fs.result():
            # What came behind the request is a part of the next one, at least.
            is_complete = conn.add_to_head(conn.parser.unreader.take_buffered())
            if conn.head:
                (self.enqueue_req if is_complete else self._expect_head)(conn)
                return
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> bool:
        """Serve one request in a pool thread, and see the connection off there if it is the last."""
        keep = super().handle(conn)
        if not keep:
            util.close_graceful(conn.sock, self.linger_s, self.max_linger_bytes)
        return bool(keep)

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Run the application; a client that stalls in its body or in reading ends the request."""
        conn.expect_body()
        limit_chunks(req, conn.parser.unreader)
        try:
            return bool(super().handle_request(req, conn))
        except (BlockingIOError, TimeoutError) as error:  # SO_SNDTIMEO is the former, TCP_USER_TIMEOUT the latter
            self.log.info("%s %s: the client stalled: %s", req.method, req.path, error)
            return False

    def handle_error(self, req: Request | None, client: socket.socket, addr: object, exc: Exception) -> None:
        """Answer what is no request in the shape of every other error, and anything else as gunicorn does.

        What the client sent is not repeated, neither to it nor in the log: the rest of a body with a wrong length looks
        like a request.
        """
        refusal = next((answer for kind, answer in _REFUSALS if isinstance(exc, kind)), None)
        if refusal is None:
            super().handle_error(req, client, addr, exc)
            return
        status, message = refusal
        self.log.info("Refused what is no request: %s", type(exc).__name__)
        _send_error(client, status, message, "invalid_request_error")

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Note SIGINT or SIGQUIT. Raising here, as gunicorn does, would print tracebacks and then wait for streams."""
        if not self.booted:
            super().handle_quit(sig, frame)
        self.alive = False
        self._quit_at = time.monotonic()
        self.method_queue.defer(lambda: None)

    def run(self) -> None:
        """Serve until told to stop, drain, and see to it that the process ends."""
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        while self.alive and self.is_parent_alive():
            self._tick(accepting=True)
        self.alive = False  # from here on every answer says `Connection: close`
        self._drain()
        self._leave()

    def _tick(self, *, accepting: bool, timeout_s: float = 1.0) -> None:
        self.notify()
        rested = time.monotonic() >= self._accept_at
        self.set_accept_enabled(accepting and rested and self._has_room)
        self.wait_for_and_dispatch_events(timeout_s)
        self._make_room()
        self.murder_keepalived()
        self.murder_pending()

    def _drain(self) -> None:
        """Answer whatever comes until the requests of before have ended or there is no time left."""
        start = time.monotonic()
        limit = min(start + max(0.0, self.cfg.graceful_timeout - self.exit_margin_s), self._quit_at)
        # On a reload a younger worker shares the listener and serves what this one could only refuse.
        accepting = self.ppid == os.getppid() and self._youngest[:] == struct.pack("q", self.age)
        if not accepting:
            self._stop_accepting()
        self._tell_application(max(0.0, limit - start))
        earlier = frozenset(self._running)
        while (now := time.monotonic()) < min(limit, self._quit_at):
            if now > start + self.settle_s and not earlier & self._running:
                break
            self._tick(accepting=accepting, timeout_s=0.1)

    def _tell_application(self, seconds_left: float) -> None:
        self.log.info("Draining %d requests for up to %.1f s", len(self._running), seconds_left)
        try:
            getattr(self.wsgi, "begin_drain", lambda _: None)(seconds_left)
        except Exception:
            self.log.exception("begin_drain failed")

    def _leave(self) -> None:
        """Wait for last words, cut what still runs, and let the process end with or without its threads."""
        self._stop_accepting()
        if self._quit_at < math.inf:
            self.cfg.worker_int(self)
        end = time.monotonic() + self.settle_s
        while self._running and time.monotonic() < end:
            self._tick(accepting=False, timeout_s=0.1)
        for conn in self._running:
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)
        self.tpool.shutdown(wait=False, cancel_futures=True)
        # The interpreter joins every pool thread before it exits, and one may wait for something other than its client.
        watchdog = threading.Timer(self.exit_timeout_s, os._exit, (0,))
        watchdog.daemon = True
        watchdog.start()

    def _stop_accepting(self) -> None:
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()


def _send_error(client: socket.socket, status: int, message: str, kind: str, headers: str = "") -> None:
    """Send an error in the shape of every other one, as far as that is possible at once."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    body = json.dumps({"error": error}).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\n{headers}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        util.write_nonblock(client, head.encode() + body)
