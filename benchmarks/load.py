"""A load generator with low overhead: one thread, raw sockets, minimal parsing; and comparisons of two loads.

It shares its cores with the servers under test, so a client library's time per token would be part of the result.
"""

import contextlib
import json
import random
import re
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.fixture_model import BODY, NUM_REQUESTS
from benchmarks.report import Comparison, each_round, percentile
from benchmarks.servers import cpu_s

CONCURRENCIES = (1, 8, 64)
DONE = b"data: [DONE]"
LAST_CHUNK = b"\r\n0\r\n\r\n"
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


@dataclass(frozen=True)
class Load:
    """Results of a load."""

    tokens: int  # completion tokens of all responses, as counted by the server
    seconds: float  # from the first request to the last byte
    first_s: list[float]  # time to first token of each request
    gaps_s: list[float]  # between two chunks of a response, of all responses
    cpu_s: float  # of the load generator

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    def first_ms(self, share: float) -> float:
        """Return a percentile of the time to first token, in milliseconds; 0.5 is the median."""
        return 1000 * percentile(self.first_s, share)

    def gap_ms(self, share: float) -> float:
        """Return a percentile of the time between two chunks, in milliseconds."""
        return 1000 * percentile(self.gaps_s or [0.0], share)


class LoadError(Exception):
    """The server returned something other than a complete stream."""


@dataclass
class Connection:
    """One connection and the times of its latest response, as in `Load`."""

    sock: socket.socket
    sent_at: float = 0.0
    received: bytearray = field(default_factory=bytearray)
    first_s: float | None = None
    chunk_at: float = 0.0
    gaps_s: list[float] = field(default_factory=list)

    def send(self, request: bytes) -> None:
        """Send a request, and forget the response before it."""
        self.received.clear()
        self.first_s, self.gaps_s = None, []
        self.sent_at = time.perf_counter()
        self.sock.sendall(request)

    def receive(self) -> bool:
        """Receive the available bytes; return whether the response is complete.

        Raises:
            LoadError: the response is an error, or the server closed the connection.
        """
        content = self.sock.recv(1 << 16)
        if not content:
            raise LoadError(f"the connection ended in the middle of: {bytes(self.received[-200:])!r}")
        self.received += content
        now = time.perf_counter()
        if self.first_s is not None:
            self.gaps_s.append(now - self.chunk_at)
        elif b"data: " in self.received:
            self.first_s = now - self.sent_at
        self.chunk_at = now
        if not b"HTTP/1.1 200".startswith(self.received[:12]):
            raise LoadError(f"the server refused: {bytes(self.received[-300:])!r}")
        return self.received.endswith(LAST_CHUNK)


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
        return _Generator(stack, port, _requests(body, num_requests), keep_alive=keep_alive).keep_in_flight(concurrency)


def run_arrivals(port: int, body: dict[str, object], *, rate: float, num_requests: int) -> Load:
    """Send requests at random times, `rate` per second on average, however many are in flight: a Poisson process.

    The times are the same in each run, and the time to first token counts from them. Otherwise as `run_load`, without
    `keep_alive`.
    """
    rng, due = random.Random(0), [0.0]
    while len(due) < num_requests:
        due.append(due[-1] + rng.expovariate(rate))
    with contextlib.ExitStack() as stack:
        return _Generator(stack, port, _requests(body, num_requests), keep_alive=False).send_at(due)


def run_fixture_load(port: int, concurrency: int, **fields: object) -> Load:
    """Keep requests of the fixture model in flight for some seconds."""
    return run_load(port, {**BODY, **fields}, concurrency=concurrency, num_requests=NUM_REQUESTS[concurrency])


def with_cpu_times(pids: Mapping[str, Sequence[int]], run: Callable[[], Load]) -> tuple[Load, dict[str, float]]:
    """Run a load; return it and the CPU time per token in microseconds, by part and of the load generator."""

    def used_s() -> dict[str, float]:
        return {part: sum(map(cpu_s, processes)) for part, processes in pids.items()}

    before = used_s()
    load = run()
    used = {part: after - before[part] for part, after in used_s().items()} | {"load generator": load.cpu_s}
    return load, {part: 1e6 * seconds / load.tokens for part, seconds in used.items()}


def compare_throughput(
    name: str, ours: Callable[[int], Load], baseline: Callable[[int], Load], rounds: int, aim: float | None = None
) -> list[Comparison]:
    """Return the throughput of two loads, which run in alternation, at each of CONCURRENCIES."""
    comparisons = [Comparison(f"{name}, {concurrency} streams", aim) for concurrency in CONCURRENCIES]
    for _ in each_round(rounds, f"{name}: "):
        for concurrency, comparison in zip(CONCURRENCIES, comparisons, strict=True):
            comparison.add(ours(concurrency).tokens_per_s, baseline(concurrency).tokens_per_s)
    return comparisons


class _Generator:
    """Sends the waiting requests, one at a time on each connection, and counts the tokens of the responses."""

    def __init__(self, stack: contextlib.ExitStack, port: int, waiting: list[bytes], *, keep_alive: bool) -> None:
        self._stack, self._port, self._waiting, self._keep_alive = stack, port, waiting, keep_alive
        self._selector = stack.enter_context(selectors.DefaultSelector())
        self._tokens, self._firsts, self._gaps = 0, list[float](), list[float]()

    def keep_in_flight(self, concurrency: int) -> Load:
        """Keep `concurrency` requests in flight until all have been sent, and wait for the last response."""
        started, cpu_before_s = time.perf_counter(), time.process_time()
        for _ in range(min(concurrency, len(self._waiting))):
            self._connect()
        while self._selector.get_map():
            for connection in self._completed(60):
                if self._waiting and self._keep_alive:
                    connection.send(self._waiting.pop())
                    continue
                self._close(connection)
                if self._waiting:
                    self._connect()
        return self._load(started, cpu_before_s)

    def send_at(self, due: list[float]) -> Load:
        """Send each request at its time, in ascending seconds after the start."""
        started, cpu_before_s = time.perf_counter(), time.process_time()
        for seconds in due:
            while (left := started + seconds - time.perf_counter()) > 0:
                for connection in self._completed(left, or_nothing=True):
                    self._close(connection)
            # Otherwise a request that this program sends late would seem to have waited less.
            self._connect(since=started + seconds)
        while self._selector.get_map():
            for connection in self._completed(60):
                self._close(connection)
        return self._load(started, cpu_before_s)

    def _connect(self, since: float | None = None) -> None:
        sock = self._stack.enter_context(socket.create_connection(("127.0.0.1", self._port)))
        connection = self._selector.register(sock, selectors.EVENT_READ, Connection(sock)).data
        connection.send(self._waiting.pop())
        connection.sent_at = since or connection.sent_at

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.sock)
        connection.sock.close()

    def _completed(self, timeout_s: float, *, or_nothing: bool = False) -> Iterator[Connection]:
        """Wait for bytes; yield the connections whose responses are complete."""
        ready = self._selector.select(timeout=timeout_s)
        if not ready and not or_nothing:
            raise LoadError(f"no byte in {timeout_s} s")
        for key, _ in ready:
            if key.data.receive():
                self._tokens += _count_tokens(bytes(key.data.received))
                self._firsts.append(key.data.first_s or 0.0)
                self._gaps += key.data.gaps_s
                yield key.data

    def _load(self, started: float, cpu_before_s: float) -> Load:
        cpu_s = time.process_time() - cpu_before_s
        return Load(self._tokens, time.perf_counter() - started, self._firsts, self._gaps, cpu_s)


def _requests(body: dict[str, object], count: int) -> list[bytes]:
    return [_request(body, seed) for seed in range(count)]


def _request(body: dict[str, object], seed: int) -> bytes:
    fields = {"seed": seed, **body, "stream": True, "stream_options": {"include_usage": True}}
    content = json.dumps(fields).encode()
    kind = "Content-Type: application/json"
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{kind}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def _count_tokens(response: bytes) -> int:
    counts = COMPLETION_TOKENS.findall(response)
    if DONE not in response or not counts:
        raise LoadError(f"not a complete stream: {response[-300:]!r}")
    return int(counts[-1])
