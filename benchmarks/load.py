"""A load generator with low overhead: one thread, raw sockets, minimal parsing.

It shares its cores with the servers under test, so a client library's time per token would be part of the result.
"""

import contextlib
import json
import math
import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

DONE = b"data: [DONE]"
LAST_CHUNK = b"\r\n0\r\n\r\n"
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True)
class Load:
    """Results of a load.

    Attributes:
        tokens: Completion tokens of all responses, as counted by the server.
        seconds: From the first request to the last byte.
        first_s: Time to first token of each request, in seconds.
        cpu_s: CPU time of the load generator, in seconds.
    """

    tokens: int
    seconds: float
    first_s: list[float]
    cpu_s: float

    @property
    def tokens_per_s(self) -> float:
        """Throughput of all requests together."""
        return self.tokens / self.seconds

    def first_ms(self, percent: int) -> float:
        """Return a percentile of the time to first token, in milliseconds."""
        return 1000 * sorted(self.first_s)[math.ceil(len(self.first_s) * percent / 100) - 1]


@dataclass
class _Connection:
    sock: socket.socket
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    first_s: float | None = None


class LoadError(Exception):
    """The server returned something other than a complete stream."""


def run_load(
    port: int, body: dict[str, object], *, concurrency: int, num_requests: int, keep_alive: bool = True
) -> Load:
    """Keep `concurrency` streaming requests in flight until `num_requests` have completed.

    Each request has its own seed, unless the body has one, so no two are equal. Without `keep_alive` each has its own
    connection, too.

    Raises:
        LoadError: a response is not a complete stream.
    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())

        def connect() -> None:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            _send(selector.register(sock, selectors.EVENT_READ, _Connection(sock)).data, waiting.pop())

        waiting = [_request(body, seed) for seed in range(num_requests)]
        return _run(selector, connect, waiting, concurrency, keep_alive=keep_alive)


def _run(
    selector: selectors.BaseSelector,
    connect: Callable[[], None],
    waiting: list[bytes],
    concurrency: int,
    *,
    keep_alive: bool,
) -> Load:
    """Send the waiting requests, one at a time on each connection, and count the tokens."""
    tokens, firsts = 0, []
    started, cpu_before_s = time.perf_counter(), time.process_time()
    for _ in range(min(concurrency, len(waiting))):
        connect()
    while selector.get_map():
        ready = selector.select(timeout=60)
        if not ready:
            raise LoadError("no byte in 60 s")
        for key, _ in ready:
            connection = key.data
            if not _receive(connection):
                continue
            tokens += _count_tokens(bytes(connection.received))
            firsts.append(connection.first_s or 0.0)
            if waiting and keep_alive:
                _send(connection, waiting.pop())
                continue
            selector.unregister(connection.sock)
            connection.sock.close()
            if waiting:
                connect()
    return Load(tokens, time.perf_counter() - started, firsts, time.process_time() - cpu_before_s)


def _request(body: dict[str, object], seed: int) -> bytes:
    fields = {"seed": seed, **body, "stream": True, "stream_options": {"include_usage": True}}
    content = json.dumps(fields).encode()
    kind = "Content-Type: application/json"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _send(connection: _Connection, request: bytes) -> None:
    connection.received.clear()
    connection.first_s = None
    connection.sent_at = time.perf_counter()
    connection.sock.sendall(request)


def _receive(connection: _Connection) -> bool:
    """Receive available bytes; return whether the response is complete."""
    content = connection.sock.recv(1 << 16)
    if not content:
        raise LoadError(f"the connection ended in the middle of: {bytes(connection.received[-200:])!r}")
    connection.received += content
    if connection.first_s is None and b"data: " in connection.received:
        connection.first_s = time.perf_counter() - connection.sent_at
    if not b"HTTP/1.1 200".startswith(connection.received[:12]):
        raise LoadError(f"the server refused: {bytes(connection.received[-300:])!r}")
    return connection.received.endswith(LAST_CHUNK)


def _count_tokens(response: bytes) -> int:
    counts = COMPLETION_TOKENS.findall(response)
    if DONE not in response or not counts:
        raise LoadError(f"not a complete stream: {response[-300:]!r}")
    return int(counts[-1])
