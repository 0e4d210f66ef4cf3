"""A load generator with low overhead: one thread, raw sockets, minimal parsing.

It shares its cores with the servers under test, so a client library's time per token would be part of the result.
"""

import contextlib
import json
import math
import selectors
import socket
import time
from dataclasses import dataclass, field

DONE = b"data: [DONE]"
LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """Results of a load.

    Attributes:
        tokens: Completion tokens of all responses, as counted by the server.
        seconds: From the first request to the last byte.
        first_s: Time to first token of each request, in seconds.
    """

    tokens: int
    seconds: float
    first_s: list[float]

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


def run_load(port: int, body: dict[str, object], *, concurrency: int, num_requests: int) -> Load:
    """Keep `concurrency` streaming requests in flight until `num_requests` have completed.

    Each request has its own seed, so no two are equal.

    Raises:
        LoadError: a response is not a complete stream.
    """
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(min(concurrency, num_requests)):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            selector.register(sock, selectors.EVENT_READ, _Connection(sock))
        return _run(selector, [_request(body, seed) for seed in range(num_requests)])


def _run(selector: selectors.BaseSelector, waiting: list[bytes]) -> Load:
    """Send the waiting requests, one at a time on each connection, and count the tokens."""
    tokens, firsts = 0, []
    started = time.perf_counter()
    for key in list(selector.get_map().values()):
        _send(key.data, waiting.pop())
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
            if waiting:
                _send(connection, waiting.pop())
            else:
                selector.unregister(connection.sock)
    return Load(tokens, time.perf_counter() - started, firsts)


def _request(body: dict[str, object], seed: int) -> bytes:
    fields = {**body, "stream": True, "stream_options": {"include_usage": True}, "seed": seed}
    content = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n\r\n"
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
    if DONE not in response:
        raise LoadError(f"not a complete stream: {response[-300:]!r}")
    position = response.rindex(b'"completion_tokens":')
    return int(response[position:].split(b":", 1)[1].split(b",", 1)[0])
