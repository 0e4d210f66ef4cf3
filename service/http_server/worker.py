"""The gunicorn worker: one process, hundreds of threads, one stream per thread.

It must import neither Flask nor generation: the arbiter imports this module in the master process, where no thread may
be started.

Pinned to gunicorn 27.0.1, whose request parser is the strictest so far and whose loop costs nothing per running stream
(23.0 waits on every running future at each event). This worker fixes faults of its `ThreadWorker`: an accept thread
that lingers on closing sockets, reads and writes without time-outs, incomplete requests that hold a thread, unlimited
chunks per body, idle connections that keep others out, health checks that wait for a thread, a worker that dies of
EMFILE or at a limit of threads, and a shutdown that neither responds to new requests nor notifies the application. TLS
terminates at the proxy in front.
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
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from itertools import islice
from operator import attrgetter
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

from service.errors import BodyTimeout, GatewayError, InvalidRequest, MemoryExhausted, Overloaded
from service.http_server.connection import MAX_HEAD_BYTES, TLS_HANDSHAKE, Connection, ConnectionLimits
from service.memory import FREE_BYTES, MemoryBudget, MemoryLease

# Limit for all requests that are being received or wait for a thread; smaller ones do not count, see `FREE_BYTES`.
RECEIVED_BYTES = 64 * 2**20
# Served by threads of their own: a probe that waited for requests would have the gateway restarted.
HEALTH_PATHS = frozenset({"/health", "/healthz", "/ping", "/readyz"})

_IDLE_SINCE = attrgetter("idle_since")

# Errors of the request's head with their status and message; the first match applies.
_REFUSALS = (
    (LimitRequestLine, (414, "the request URI is too long")),
    (LimitRequestHeaders, (431, "the headers are too many or too large")),
    (ExpectationFailed, (417, "Expect must be 100-continue or absent")),
    (UnsupportedTransferCoding, (501, "Transfer-Encoding must be chunked or absent")),
    (ParseException, (400, "invalid HTTP request")),
)


class _ThreadPool(ThreadPoolExecutor):
    """A thread pool that continues with the threads that it has if the system allows no more."""

    def __init__(self, max_workers: int, name: str, warn: Callable[..., object]) -> None:
        super().__init__(max_workers, name)
        self._warn = warn

    def _adjust_thread_count(self) -> None:
        """Start a thread for a request that is in the queue already, unless one is idle."""
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            if not self._threads:
                raise
            self._warn("Cannot start a thread, requests wait for %d others: %s", len(self._threads), error)


class StreamingWorker(ThreadWorker):  # type: ignore[misc]
    """A thread worker that no client can block, and that drains its requests before it exits.

    On SIGTERM it calls `begin_drain(seconds_left)` of the WSGI application, if defined, once and on the accept thread:
    it must return at once. New requests still reach the application, which should refuse them with 503. It should end
    its streams within `seconds_left`, which is `graceful_timeout` (when the arbiter kills) minus `exit_margin_s`;
    `settle_s` later the remaining connections are closed. SIGINT and SIGQUIT do the same with no seconds left.

    Before it receives the rest of a body it calls `refuses_body(path, authorization)` of the application, if defined,
    also on the accept thread. If that returns True, it receives no more, and the application gets the request at once.
    """

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()
    linger_s: ClassVar[float] = 1.0  # for the client to close first, so that a reset does not discard our last bytes
    accept_pause_s: ClassVar[float] = 0.5  # after a failed accept; without descriptors a retry would spin
    settle_s: ClassVar[float] = 0.5  # for requests in transit at SIGTERM, and for final error events at the end
    exit_margin_s: ClassVar[float] = 2.0  # settle_s, exit_timeout_s and a reserve
    exit_timeout_s: ClassVar[float] = 1.0  # for hooks and threads, before the process exits without them
    num_health_threads: ClassVar[int] = 4

    # The age of the latest worker, shared by every process forked from the arbiter.
    _youngest: ClassVar[mmap.mmap] = mmap.mmap(-1, 8)

    def __init__(self, age: int, *args: object) -> None:
        """Record the worker's age; runs in the arbiter, before the fork."""
        super().__init__(age, *args)
        self._youngest[:] = struct.pack("q", age)
        self._running: set[Connection] = set()
        self._num_requests = 0  # of `_running`, without health checks
        # With a thread or waiting for one. Other connections can be evicted, so that health checks are accepted.
        self._max_requests = self.cfg.threads + 3 * (self.worker_connections - self.cfg.threads) // 4
        self._memory = MemoryBudget(
            max(RECEIVED_BYTES, 4 * self.limits.max_body_bytes, 2 * self.limits.max_upload_bytes)
        )
        self._starved: Connection | None = None  # it has found the memory full
        self._num_client_connections: Counter[str] = Counter()
        self._accept_at = 0.0
        self._warn_at: defaultdict[str, float] = defaultdict(float)
        self._quit_at = math.inf

    def init_process(self) -> None:
        """Create the threads of health checks, and serve."""
        self._health_threads = _ThreadPool(self.num_health_threads, "health", self._warn)
        super().init_process()

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return _ThreadPool(self.cfg.threads, "request", self._warn)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, which waits for a request without a thread; pause accepting if that fails."""
        try:
            sock, address = listener.accept()
            conn = Connection(self.cfg, self.limits, MemoryLease(self._memory), sock, address, listener.getsockname())
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                self._accept_at = time.monotonic() + self.accept_pause_s
                self._warn("Cannot accept connections, retrying every %g s: %s", self.accept_pause_s, error)
            return
        conn.refuses_body = self._refuses_body
        if not self._admit(conn):
            return
        self.nr_conns += 1
        self._expect_rest(conn)

    def _refuses_body(self, request: Request) -> bool:
        refuses = getattr(self.wsgi, "refuses_body", None)
        # As WSGI joins headers of the same name.
        authorization = ",".join(value for name, value in request.headers if name == "AUTHORIZATION")
        return refuses is not None and bool(refuses(request.path, authorization))

    def _expect_rest(self, conn: Connection) -> None:
        """Wait for the rest of a request without a thread: clients that send only a part would hold all threads."""
        conn.sock.setblocking(False)
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def on_pending_socket_readable(self, conn: Connection, client: socket.socket) -> None:  # noqa: ARG002 - gunicorn's
        """Receive a part of a request, and submit the connection to a thread once it is complete."""
        try:
            is_ready = conn.receive()
        except MemoryExhausted:
            self._starved = conn
            return
        except InvalidRequest as error:
            # A chunked body may need more than the whole budget before it exceeds its own limit.
            self._refuse_pending(conn, error)
            return
        if is_ready:
            self._forget_pending(conn)
            self._submit(conn)
        elif conn.head.startswith(TLS_HANDSHAKE):
            # At once: the client would wait for its time-out, as the end of a head never comes.
            self._refuse_pending(conn, InvalidRequest("this port speaks plain HTTP, not TLS: use http://"))
        elif len(conn.head) > MAX_HEAD_BYTES:
            self._refuse_pending(conn, LimitRequestHeaders(f"no end in {len(conn.head)} bytes"))

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Receive the next request on a kept-alive connection."""
        self.keepalived_conns.remove(conn)
        conn.expect_head()
        self.pending_conns.append(conn)
        self.poller.modify(client, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))
        self.on_pending_socket_readable(conn, client)

    def murder_pending(self) -> None:
        """Close connections whose request has not arrived in time, with 408 if a part of it has."""
        now = time.monotonic()
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now]:
            is_head = conn.request is None
            what = "the head of the request timed out" if is_head else "the body did not arrive in time"
            self._refuse_pending(conn, BodyTimeout(what))

    def _forget_pending(self, conn: Connection) -> None:
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)

    def _refuse_pending(self, conn: Connection, error: Exception) -> None:
        self._forget_pending(conn)
        self._refuse(conn, error if conn.head or conn.request is not None else None)

    def _refuse(self, conn: Connection, error: Exception | None) -> None:
        """Close a connection on the accept thread, with a response if there is an error."""
        self.nr_conns -= 1
        if error is not None:
            self.handle_error(conn.request, conn.sock, conn.client, error)
        conn.close()

    def _admit(self, conn: Connection) -> bool:
        """Count a connection for its client's address, or refuse it with 429 at the limit."""
        limit, client = self.limits.max_client_connections, conn.client
        if limit is None or not isinstance(client, tuple):  # a Unix socket has no addresses
            return True
        if self._num_client_connections[client[0]] >= limit:
            message = f"a client address may have at most {limit} connections; close one and try again"
            _send_error(conn.sock, _refusal(429, message, retry_after_s=1))
            conn.close()
            return False
        self._num_client_connections[client[0]] += 1
        conn.on_close = partial(self._forget_client, client[0])
        return True

    def _forget_client(self, address: str) -> None:
        self._num_client_connections[address] -= 1
        if not self._num_client_connections[address]:
            del self._num_client_connections[address]

    def _evict(self) -> None:
        """Close the longest-idle connections, new or kept alive, if there are too many or their bodies are too large.

        Otherwise silent clients could take every connection and be replaced by others when they time out: with 2,000, a
        request waited for 20 to 30 s. Do not call it while events are dispatched: one of them may belong to a
        connection that it closes.
        """
        while self.nr_conns > self.worker_connections and (self.pending_conns or self.keepalived_conns):
            # Those kept alive are in the order of their time.
            conn = min((*self.pending_conns, *islice(self.keepalived_conns, 1)), key=_IDLE_SINCE)
            is_pending = not self.keepalived_conns or conn is not self.keepalived_conns[0]
            (self.pending_conns if is_pending else self.keepalived_conns).remove(conn)
            self.poller.unregister(conn.sock)
            self._refuse(conn, None)
        starved, self._starved = self._starved, None
        if starved in self.pending_conns:
            holders = [conn for conn in self.pending_conns if conn is starved or conn.num_bytes > FREE_BYTES]
            message = f"the memory for requests that are being received is full: {self._memory.max_bytes} bytes"
            self._refuse_pending(min(holders, key=_IDLE_SINCE), MemoryExhausted(message, retry_after_s=1))

    def _warn(self, message: str, *values: object) -> None:
        now = time.monotonic()
        if now >= self._warn_at[message]:
            self._warn_at[message] = now + 60
            self.log.warning(message, *values)

    def _submit(self, conn: Connection) -> None:
        """Let a thread serve a request, unless too many wait for one or the client has closed the connection."""
        if conn.is_closed:
            self._refuse(conn, None)
        elif self._num_requests >= self._max_requests and not _is_health_check(conn.request):
            num_waiting = self._max_requests - self.cfg.threads
            self._warn("All %d threads are busy and %d requests wait: others get 429", self.cfg.threads, num_waiting)
            self._refuse(conn, Overloaded("all threads are busy; try again later", retry_after_s=1))
        else:
            self.enqueue_req(conn)

    def enqueue_req(self, conn: Connection) -> None:
        """Submit a connection to the thread pool, or to the threads of health checks."""
        conn.is_health_check = _is_health_check(conn.request)
        self._running.add(conn)
        self._num_requests += not conn.is_health_check
        pool = self._health_threads if conn.is_health_check else self.tpool
        future = pool.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def finish_request(self, conn: Connection, fs: "Future[bool]") -> None:
        """Handle a connection that the thread pool has finished with, on the accept thread."""
        self._running.discard(conn)
        self._num_requests -= not conn.is_health_check
        conn.expect_head()
        if not fs.cancelled() and fs.exception() is None and fs.result():
            # Bytes after the request belong to the next one.
            following = conn.parser.unreader.take_buffered()
            if following:
                conn.sock.setblocking(False)
                is_ready = conn.add(following)
                (self._submit if is_ready else self._expect_rest)(conn)
                return
        super().finish_request(conn, fs)

    def handle(self, conn: Connection) -> bool:
        """Serve one request in a pool thread, and close the connection gracefully there if it is the last."""
        conn.memory.close()  # the application accounts for the body from here on
        keep = super().handle(conn)
        if not keep and not conn.is_health_check:
            # It discards the rest of a refused body, even beyond the limit.
            util.close_graceful(conn.sock, self.linger_s, 2 * self.limits.max_upload_bytes)
        return bool(keep)

    def handle_request(self, req: Request, conn: Connection) -> bool:
        """Run the application; end the request if the client stalls while reading the response."""
        if conn.is_health_check:
            conn.sock.setblocking(False)  # a client that does not read must not hold one of the few threads
        try:
            return bool(super().handle_request(req, conn))
        except (BlockingIOError, TimeoutError) as error:  # SO_SNDTIMEO is the former, TCP_USER_TIMEOUT the latter
            self.log.info("%s %s: the client stalled: %s", req.method, req.path, error)
            return False

    def handle_error(self, req: Request | None, client: socket.socket, addr: object, exc: Exception) -> None:
        """Respond to an invalid request with OpenAI's error object, and to other errors as gunicorn does.

        The received bytes are neither returned nor logged: the rest of a body with a wrong length looks like a
        request.
        """
        refusals = (_refusal(status, message) for kind, (status, message) in _REFUSALS if isinstance(exc, kind))
        error = exc if isinstance(exc, GatewayError) else next(refusals, None)
        if error is None:
            super().handle_error(req, client, addr, exc)
            return
        _send_error(client, error)
        self.log.info("Refused a request: %s", type(exc).__name__)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Record SIGINT or SIGQUIT; raising, as gunicorn does, would print tracebacks and wait for streams."""
        if not self.booted:
            super().handle_quit(sig, frame)
        self.alive = False
        self._quit_at = time.monotonic()
        self.method_queue.defer(lambda: None)

    def run(self) -> None:
        """Serve until a signal stops it, drain, and exit."""
        self.poller.register(self.method_queue.fileno(), selectors.EVENT_READ, self.method_queue.run_callbacks)
        while self.alive and self.is_parent_alive():
            self._tick(accepting=True)
        self.alive = False  # from here on every response has `Connection: close`
        self._drain()
        self._shut_down()

    def _tick(self, *, accepting: bool, timeout_s: float = 1.0) -> None:
        self.notify()
        # Beyond the maximum, a new one evicts an idle one.
        has_room = self.nr_conns < self.worker_connections or bool(self.pending_conns or self.keepalived_conns)
        self.set_accept_enabled(accepting and time.monotonic() >= self._accept_at and has_room)
        self.wait_for_and_dispatch_events(timeout_s)
        self._evict()
        self.murder_keepalived()
        self.murder_pending()

    def _drain(self) -> None:
        """Serve until the requests running at the start of the drain have ended or the time is over."""
        start = time.monotonic()
        limit = min(start + max(0.0, self.cfg.graceful_timeout - self.exit_margin_s), self._quit_at)
        # On a reload a younger worker shares the listener and serves requests that this one could only refuse.
        accepting = self.ppid == os.getppid() and self._youngest[:] == struct.pack("q", self.age)
        if not accepting:
            self._stop_accepting()
        self._notify_application(max(0.0, limit - start))
        earlier = self._unfinished()
        while (now := time.monotonic()) < min(limit, self._quit_at):
            if now > start + self.settle_s and not earlier & self._unfinished():
                break
            self._tick(accepting=accepting, timeout_s=0.1)

    def _unfinished(self) -> frozenset[Connection]:
        """Return the connections with a request whose head has been received."""
        return frozenset((*self._running, *(conn for conn in self.pending_conns if conn.request is not None)))

    def _notify_application(self, seconds_left: float) -> None:
        self.log.info("Draining %d requests for up to %.1f s", len(self._running), seconds_left)
        try:
            getattr(self.wsgi, "begin_drain", lambda _: None)(seconds_left)
        except Exception:
            self.log.exception("begin_drain failed")

    def _shut_down(self) -> None:
        """Wait for final events, close the remaining connections, and let the process exit without its threads."""
        self._stop_accepting()
        if self._quit_at < math.inf:
            self.cfg.worker_int(self)
        end = time.monotonic() + self.settle_s
        while self._running and time.monotonic() < end:
            self._tick(accepting=False, timeout_s=0.1)
        for conn in self._running:
            with contextlib.suppress(OSError):
                conn.sock.shutdown(socket.SHUT_RDWR)
        for pool in (self.tpool, self._health_threads):
            pool.shutdown(wait=False, cancel_futures=True)
        # At exit the interpreter joins every pool thread, and one may be blocked on something other than its client.
        watchdog = threading.Timer(self.exit_timeout_s, os._exit, (0,))
        watchdog.daemon = True
        watchdog.start()

    def _stop_accepting(self) -> None:
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()


def _is_health_check(request: Request | None) -> bool:
    """Return whether a request goes to the application's health checks, whatever it does to the path."""
    return request is not None and request.method in ("GET", "HEAD") and request.path in HEALTH_PATHS


def _refusal(status: int, message: str, retry_after_s: int | None = None) -> GatewayError:
    error = GatewayError(message, retry_after_s=retry_after_s)
    error.status = status
    return error


def _send_error(client: socket.socket, error: GatewayError) -> None:
    """Send OpenAI's error object, as far as possible without blocking."""
    body = json.dumps(error.body()).encode()
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"
    head = [status, "Connection: close", "Content-Type: application/json"]
    head += [f"{name}: {value}" for name, value in error.headers().items()]
    head += [f"Content-Length: {len(body)}", "", ""]
    with contextlib.suppress(OSError):
        util.write_nonblock(client, "\r\n".join(head).encode() + body)
