"""The gunicorn worker with clients that stall, leave, flood and never close. Every test runs a real gunicorn."""

import contextlib
import http.client
import itertools
import json
import os
import resource
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.http_server.worker import RECEIVED_BYTES
from tests.ports import read_all
from tests.processes import cpu_s
from tests.servers import Process
from tests.waiting import until

APP = "tests.unit.service.http_server.worker_app"
WORKER = f"{APP}.ImpatientWorker"
LIMIT_S = 60.0  # longer than anything takes beside other tests on a busy machine, the start of gunicorn included
GET = b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /body HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n"
LAST_GET = b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


class Gunicorn(Process):
    """A gunicorn with one worker, on a free port of the loopback interface and on a Unix socket."""

    def __init__(self, log: Path, *options: str) -> None:
        """Start it; connections wait in the backlog until it is ready."""
        self.path = str(log.parent / "socket")
        self._connections = contextlib.ExitStack()
        unix = socket.socket(socket.AF_UNIX)
        with socket.create_server(("127.0.0.1", 0), backlog=128) as tcp, unix:
            unix.bind(self.path)
            self.address: tuple[str, int] = tcp.getsockname()
            fds = [tcp.fileno(), unix.fileno()]
            binds = itertools.chain(*(["-b", f"fd://{fd}"] for fd in fds))
            command = [sys.executable, "-m", "gunicorn", "-k", WORKER, "--no-control-socket", *binds, *options]
            super().__init__([*command, f"{APP}:application"], log, pass_fds=fds)

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Open a connection, which is closed at the end of the test at the latest, and send bytes."""
        sock = self._connections.enter_context(socket.create_connection(self.address, timeout=LIMIT_S))
        sock.sendall(sent)
        return sock

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(*self.address, timeout=LIMIT_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads(self.get("/status")[1])
        return facts

    def interrupt(self) -> None:
        """Send SIGINT to arbiter and worker, as Ctrl-C does to a foreground job."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """Kill arbiter and worker, which have a session of their own: a graceful shutdown takes 0.4 s."""
        self._connections.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def gunicorn(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gunicorn]:
    """Run gunicorn with 8 threads and a drain of 2 s, or with the options that a test sets."""
    options = {"--threads": "8", "--worker-connections": "200", "--graceful-timeout": "4"}
    options |= getattr(request, "param", {})
    server = Gunicorn(tmp_path / "log", *itertools.chain(*options.items()))
    try:
        server.get("/")
        yield server
    finally:
        server.kill()


def with_options(**options: str) -> pytest.MarkDecorator:
    given = {"--" + name.replace("_", "-"): value for name, value in options.items()}
    return pytest.mark.parametrize("gunicorn", [given], indirect=True, ids=[""])


def read_past(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = sock.recv(1 << 16)
        assert piece, f"closed before {mark!r}"
        data += piece
    return data


def drip(sock: socket.socket, text: bytes) -> bytes:
    """Send ten bytes a second until the server answers or closes."""
    sock.settimeout(0.1)
    for byte in itertools.islice(itertools.cycle(text), int(LIMIT_S * 10)):
        with contextlib.suppress(TimeoutError, ConnectionError):
            sock.send(bytes([byte]))
            return sock.recv(1 << 16)
    pytest.fail("the server still reads")


def test_clients_that_never_close_delay_no_other_client(gunicorn):
    idlers = [gunicorn.connect(LAST_GET % b"/") for _ in range(6)]
    start = time.monotonic()
    assert gunicorn.get("/") == (200, b"ok")
    assert time.monotonic() - start < 5
    assert all(read_all(idler).endswith(b"ok") for idler in idlers)


@with_options(threads="1")
def test_silent_connections_hold_no_thread(gunicorn):
    silent = [gunicorn.connect() for _ in range(20)]
    start = time.monotonic()
    assert gunicorn.get("/") == (200, b"ok")
    # Each of them would hold it for a second.
    assert time.monotonic() - start < 15
    assert read_all(silent[0]) == b""


@with_options(worker_class=f"{APP}.PatientWorker", worker_connections="10", keep_alive="600")
@pytest.mark.parametrize("request_first", [False, True], ids=["new", "kept alive"])
def test_a_new_connection_evicts_the_one_idle_longest_when_full(gunicorn, request_first):
    with gunicorn.connect(GET % b"/stream") as stream:
        read_past(stream, b"tick")
        idlers = []
        for _ in range(30):
            idlers.append(gunicorn.connect(GET % b"/" if request_first else b""))
            if request_first:
                read_past(idlers[-1], b"ok")
        # Before there is one of the other kind, too.
        assert read_all(idlers[0]) == b""
        assert [gunicorn.get("/") for _ in range(20)] == [(200, b"ok")] * 20
        idlers[-1].sendall(GET % b"/")
        read_past(stream, b"tick")


@with_options(worker_class=f"{APP}.CountingWorker", keep_alive="600")
def test_connections_are_limited_by_client_address(gunicorn):
    def admitted():
        # Connections stop counting a moment after they have closed.
        sock = gunicorn.connect(GET % b"/")
        data = b"."
        with contextlib.suppress(ConnectionResetError):
            while data and b"ok" not in data:
                data = sock.recv(1 << 16)
        return sock if data else sock.close()

    ours = []
    for _ in range(3):
        until(lambda: (sock := admitted()) and not ours.append(sock))
    refusal = read_all(gunicorn.connect())
    assert refusal.startswith(b"HTTP/1.1 429 Too Many Requests")
    assert b"Retry-After: 1" in refusal
    assert b"at most 3 connections" in refusal
    with socket.create_connection(gunicorn.address, LIMIT_S, source_address=("127.0.0.2", 0)) as other:
        other.sendall(LAST_GET % b"/")
        assert read_all(other).endswith(b"ok")
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(gunicorn.path)
        local.sendall(LAST_GET % b"/")
        assert read_all(local).endswith(b"ok")
    ours[0].close()
    until(admitted)


@with_options(worker_class=f"{APP}.PatientWorker", worker_connections="10", keep_alive="600")
def test_a_burst_of_connections_causes_no_error(gunicorn):
    pid = gunicorn.status()["pid"]
    crowd = [gunicorn.connect() for _ in range(100)]
    for member in crowd:
        with contextlib.suppress(OSError):
            member.sendall(GET % b"/")
    for member in crowd:
        with contextlib.suppress(OSError):
            member.recv(1 << 16)
    assert gunicorn.status()["pid"] == pid
    assert "Traceback" not in gunicorn.output


HEAD, BODY = b"the head of the request timed out", b"the body did not arrive in time"


INCOMPLETE = {
    "head": (b"", b"GET / HTTP/1.1\r\nHo", HEAD),
    "head of a later request": (GET % b"/", b"GET / HTTP/1.1\r\nHo", HEAD),
    "dripping head": (b"", b"GET / HTTP/1.1\r\nX: ", HEAD),
    "body": (b"", POST % b"Content-Length: 1000" + b"{", BODY),
    "dripping body": (b"", POST % b"Content-Length: 1000" + b"{", BODY),
}


@with_options(threads="1")
def test_an_incomplete_request_gets_408_and_holds_no_thread(gunicorn):
    stallers = {}
    for name, (before, part, _) in INCOMPLETE.items():
        stallers[name] = gunicorn.connect(before)
        if before:
            read_past(stallers[name], b"ok")
        stallers[name].sendall(part)
    assert gunicorn.get("/") == (200, b"ok")
    with ThreadPoolExecutor(len(stallers)) as pool:
        drips = {name: pool.submit(drip, stallers[name], b"x") for name in INCOMPLETE if "dripping" in name}
        for name, (_, _, message) in INCOMPLETE.items():
            answer = drips[name].result() if name in drips else read_all(stallers[name])
            assert answer.startswith(b"HTTP/1.1 408 "), name
            assert message in answer, name


@with_options(worker_class=f"{APP}.PatientWorker")
def test_a_body_that_the_application_refuses_is_not_received(gunicorn):
    post, part = b"POST /guarded HTTP/1.1\r\nHost: test\r\n%s%s%s\r\n\r\n", b"4\r\nabcd\r\n"
    framings = b"Content-Length: 1000", b"Transfer-Encoding: chunked"
    for framing, expects in itertools.product(framings, (b"", b"\r\nExpect: 100-continue")):
        answer = read_all(gunicorn.connect(post % (framing, b"", expects) + part))
        assert answer.startswith(b"HTTP/1.1 401 "), framing + expects
        assert answer.endswith(b"no key")
        assert b"Connection: close" in answer
        allowed = gunicorn.connect(post % (framing, b"\r\nAuthorization: Bearer key", expects) + part)
        rest = b"0\r\n\r\n" if b"chunked" in framing else b"x" * (1000 - len(part))
        assert gunicorn.get("/")[0] == 200
        allowed.sendall(rest)
        assert b"HTTP/1.1 200 " in read_past(allowed, b"abcd" if b"chunked" in framing else rest)


@with_options(worker_class=f"{APP}.PatientWorker")
@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
def test_the_body_of_a_get_is_not_received(gunicorn, framing):
    answer = read_all(gunicorn.connect(b"GET / HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n4\r\nabcd" % framing))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"ok")
    assert b"Connection: close" in answer


def test_pipelined_requests_are_answered_in_order(gunicorn):
    content = b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc" + GET % b"/" + LAST_GET % b"/"
    for cut in range(0, len(content), 7):
        with gunicorn.connect(content[:cut]) as sock:
            time.sleep(0.01)
            sock.sendall(content[cut:])
            answer = read_all(sock)
        assert answer.count(b"HTTP/1.1 200 ") == 3
        assert answer.index(b"abc") < answer.index(b"ok")


@with_options(worker_class=f"{APP}.PatientWorker")
def test_a_tls_handshake_is_refused_at_once(gunicorn):
    """A client with `https://` would wait for its time-out; the response says which scheme to use."""
    with pytest.raises(ssl.SSLError, match="WRONG_VERSION_NUMBER"):
        ssl.create_default_context().wrap_socket(gunicorn.connect(), server_hostname="localhost")
    answer = read_all(gunicorn.connect(b"\x16\x03\x01\x02\x00\x01"))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"use http://" in answer


def test_an_endless_head_is_refused(gunicorn):
    with gunicorn.connect(b"GET / HTTP/1.1\r\nHost: test\r\n") as sender:
        with contextlib.suppress(OSError):
            sender.sendall(b"X: y\r\n" * 20_000)
        assert read_all(sender)[:13] in (b"HTTP/1.1 431 ", b"")
    assert gunicorn.get("/") == (200, b"ok")


# What is sent first, what is sent later, and the response's body.
INTERRUPTED = {
    "head": (b"GET / HTTP/1.1\r\nHo", b"st: test\r\n\r\n", b"ok"),
    "length": (POST % b"Content-Length: 4" + b"ab", b"cd", b"abcd"),
    "continue": (POST % b"Content-Length: 4\r\nExpect: 100-continue", b"abcd", b"abcd"),
    "chunked": (POST % b"Transfer-Encoding: chunked" + b"2\r\nab\r\n3;x=y\r\n", b"cde\r\n0\r\n\r\n", b"abcde"),
    "chunk that looks like the end": (
        POST % b"Transfer-Encoding: chunked" + b"5\r\n0\r\n\r\n", b"\r\n0\r\nX: y\r\n\r\n", b"0\r\n\r\n"
    ),
    "trailer": (POST % b"Transfer-Encoding: chunked" + b"2\r\nab\r\n0\r\nX: y\r\n", b"\r\n", b"ab"),
}  # fmt: skip


@with_options(worker_class=f"{APP}.PatientWorker", threads="2")
def test_an_incomplete_request_holds_no_thread(gunicorn):
    for (name, (part, rest, content)), pipelined in itertools.product(INTERRUPTED.items(), (False, True)):
        stallers = [gunicorn.connect((GET % b"/" if pipelined else b"") + part) for _ in range(6)]
        assert [gunicorn.get("/") for _ in range(5)] == [(200, b"ok")] * 5, name
        for staller in stallers:
            before = read_past(staller, b"100 Continue\r\n\r\n") if b"Expect" in part else b""
            staller.sendall(rest + LAST_GET % b"/")
            answer = before + read_all(staller)
            assert answer.count(b"HTTP/1.1 200 ") == 2 + pipelined, name
            assert b"\r\n\r\n" + content + b"HTTP/1.1" in answer, name
            assert answer.count(b"100 Continue") == (b"Expect" in part), name


def test_a_body_that_arrives_in_pieces_is_passed_on_unchanged(gunicorn):
    content = bytes(range(256)) * 4096
    chunks = b"%x\r\n%b\r\n" % (1000, content[:1000]) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content) - 1000, content[1000:])
    for framing, body in ((b"Content-Length: %d" % len(content), content), (b"Transfer-Encoding: chunked", chunks)):
        with gunicorn.connect(POST % framing) as sender:
            for start in range(0, len(body), 70_001):
                sender.sendall(body[start : start + 70_001])
            sender.sendall(LAST_GET % b"/")
            answer = read_all(sender)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.partition(b"\r\n\r\n")[2].startswith(content + b"HTTP/1.1 200 ")


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % (2 << 20), b"Transfer-Encoding: chunked"])
def test_a_body_beyond_the_limit_is_not_received(gunicorn, framing):
    """Chunks get 413, a length reaches the application, which refuses it; what follows is never a request."""
    with gunicorn.connect(POST % framing + b"200000\r\n" + GET % b"/smuggled") as sender:
        answer = read_all(sender)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in answer
    if framing == b"Transfer-Encoding: chunked":
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"must be at most 1048576 bytes" in answer


def test_a_malformed_chunked_body_reaches_the_application_at_once(gunicorn):
    """Its size is no number or negative, or the end of a chunk is missing."""
    for body in (b"zz\r\n", b"-1\r\n{}", b"2\r\n{}X0\r\n\r\n"):
        with gunicorn.connect(POST % b"Transfer-Encoding: chunked" + body) as sender:
            assert read_all(sender).startswith(b"HTTP/1.1 400 "), body


def test_an_upload_in_long_chunk_lines_does_not_end_the_worker(gunicorn):
    """Each line is within its limit, and few bytes are data; together they need more than the whole memory."""
    line = b"100;" + b"x" * 8000 + b"\r\n" + b"d" * 256 + b"\r\n"
    pid = gunicorn.status()["pid"]
    with gunicorn.connect(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n") as sender:
        with contextlib.suppress(OSError):
            for _ in range(RECEIVED_BYTES // len(line) + 100):
                sender.sendall(line)
        assert read_all(sender)[:13] in (b"", b"HTTP/1.1 400 ")
    assert gunicorn.status()["pid"] == pid


@with_options(worker_class=f"{APP}.PatientWorker")
def test_incomplete_bodies_share_a_bounded_memory(gunicorn):
    part = b"x" * (3 << 20)
    stallers = [gunicorn.connect(POST % b"Content-Length: 4194304" + part) for _ in range(RECEIVED_BYTES // len(part))]
    with gunicorn.connect(POST % b"Content-Length: 4194304" + part) as sender:
        answer = read_all(stallers[0])
        assert answer.startswith(b"HTTP/1.1 429 ")
        assert f"{RECEIVED_BYTES} bytes" in answer.decode()
        sender.sendall(b"x" * (1 << 20))
        assert sender.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert not select.select(stallers[2:], [], [], 0)[0]


@with_options(worker_class=f"{APP}.PatientWorker", worker_connections="600")
def test_connections_that_send_no_body_hold_no_memory_for_it(gunicorn):
    silent = [gunicorn.connect(POST % b"Content-Length: 4194304") for _ in range(RECEIVED_BYTES // (256 << 10))]
    with gunicorn.connect(POST % b"Content-Length: 1048576" + b"x" * (1 << 20)) as sender:
        assert sender.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert not select.select(silent, [], [], 0)[0]


@with_options(worker_class=f"{APP}.PatientWorker", threads="1", worker_connections="16")
def test_health_checks_are_answered_while_every_thread_is_held(gunicorn):
    with contextlib.closing(gunicorn.connect(GET % b"/stream")) as stream:
        read_past(stream, b"tick")
        crowd = {gunicorn.connect(GET % b"/") for _ in range(30)}
        # Eleven wait: three quarters of the connections beside the thread.
        until(lambda: len(select.select(crowd, [], [], 0)[0]) == 19)
        refused = set(select.select(crowd, [], [], 0)[0])
        assert all(b"all threads are busy" in read_all(sock) for sock in refused)
        for path in ("/health", "/healthz", "/ping", "/readyz"):
            assert gunicorn.get(path) == (200, b"ok"), path
    assert all(read_past(sock, b"ok") for sock in crowd - refused)
    assert gunicorn.output.count("others get 429") == 1


@with_options(threads="1")
def test_clients_that_do_not_read_hold_no_thread_of_health_checks(gunicorn):
    crowd = [gunicorn.connect(LAST_GET % b"/healthz") for _ in range(20)]
    with gunicorn.connect(GET % b"/stream") as stream:
        read_past(stream, b"tick")
        for _ in range(6):
            crowd.append(gunicorn.connect())
            crowd[-1].setblocking(False)
            with contextlib.suppress(BlockingIOError):
                crowd[-1].send((GET % b"/healthz") * 20_000)
        assert gunicorn.get("/healthz") == (200, b"ok")


def test_a_slow_but_steady_body_is_read_to_its_end(gunicorn):
    """Bytes at the minimum rate or above extend the timeout by the time they take."""
    with gunicorn.connect(b"POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3000\r\n\r\n") as sender:
        for _ in range(15):
            time.sleep(0.1)
            sender.sendall(b"x" * 200)
        answer = sender.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 200 ")


@with_options(threads="1")
@pytest.mark.parametrize(
    ("family", "path"),
    [(socket.AF_UNIX, b"/flood"), (socket.AF_INET, b"/flood"), (socket.AF_INET, b"/burst")],
    ids=["blocked on a Unix socket", "blocked on TCP", "not blocked on TCP"],
)
def test_a_stream_that_the_client_does_not_read_is_closed(gunicorn, family, path):
    with socket.socket(family) as idler:
        idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idler.connect(gunicorn.address if family == socket.AF_INET else gunicorn.path)
        idler.sendall(GET % path)
        until(lambda: gunicorn.status()["ended"] == [path.decode()])
    assert "Traceback" not in gunicorn.output


def test_a_response_arrives_though_the_request_body_is_not_read(gunicorn):
    """Closing waits for the client, since a reset would destroy the response in transit; the body exceeds the limit."""
    size = 2 << 20
    with gunicorn.connect(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        until(lambda: select.select([sender], [], [], 0)[0])
        sender.sendall(b"x" * size)
        assert read_all(sender).endswith(b"ok")


def test_running_out_of_descriptors_ends_neither_streams_nor_the_worker(gunicorn):
    pid = gunicorn.status()["pid"]
    with gunicorn.connect(GET % b"/stream") as stream:
        read_past(stream, b"tick")
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 5
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        crowd = [gunicorn.connect() for _ in range(12)]
        until(lambda: "Cannot accept" in gunicorn.output)
        before = cpu_s(pid)
        for _ in range(20):
            read_past(stream, b"tick")
        assert cpu_s(pid) - before < 0.3
        for member in crowd:
            member.close()
        assert gunicorn.status()["pid"] == pid
        read_past(stream, b"tick")
    assert gunicorn.output.count("Cannot accept") == 1


def test_running_out_of_threads_ends_neither_streams_nor_the_worker(gunicorn):
    """As with a limit of processes in a container; requests are served by the threads that there are."""
    pid = gunicorn.status()["pid"]
    with gunicorn.connect(GET % b"/stream") as stream, gunicorn.connect(LAST_GET % b"/stream?0.5") as other:
        read_past(stream, b"tick")
        read_past(other, b"tick")
        # Less than the stack of a thread.
        limit = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize() + 4 * 2**20
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        crowd = [gunicorn.connect(LAST_GET % b"/") for _ in range(12)]
        assert [read_all(member).endswith(b"ok") for member in crowd] == [True] * 12
        assert gunicorn.status()["pid"] == pid
        read_past(stream, b"tick")
    assert gunicorn.output.count("Cannot start a thread") == 1


@with_options(graceful_timeout="62", keep_alive="600")
def test_after_sigterm_the_application_responds_until_its_streams_end(gunicorn):
    with gunicorn.connect(GET % b"/stream") as stream, gunicorn.connect(GET % b"/") as kept:
        read_past(kept, b"ok")
        read_past(stream, b"tick")
        gunicorn.process.terminate()
        until(lambda: gunicorn.status()["drains"])
        kept.sendall(GET % b"/")
        read_past(kept, b"draining")
        assert gunicorn.get("/") == (503, b"draining")
        facts = gunicorn.status()
        gunicorn.get("/end")
        assert b"the end" in read_all(stream)
    assert gunicorn.process.wait(LIMIT_S) == 0
    assert facts["drains"] == [pytest.approx(60, abs=1)]


@with_options(worker_class=f"{APP}.SettlingWorker", graceful_timeout="10", keep_alive="600")
def test_a_request_in_transit_at_sigterm_is_answered(gunicorn):
    with gunicorn.connect(GET % b"/") as kept:
        read_past(kept, b"ok")
        gunicorn.process.terminate()
        until(lambda: "Draining" in gunicorn.output)
        kept.sendall(GET % b"/")
        assert read_all(kept).endswith(b"draining")
    assert gunicorn.process.wait(LIMIT_S) == 0


@with_options(graceful_timeout="6")
@pytest.mark.parametrize("path", [b"/stream", b"/deaf"])
def test_a_stream_longer_than_the_drain_ends_itself_or_is_cut(gunicorn, path):
    pid = gunicorn.status()["pid"]
    with gunicorn.connect(GET % path) as stream:
        read_past(stream, b"tick")
        gunicorn.process.terminate()
        assert (b"farewell" in read_all(stream)) == (path == b"/stream")
        assert gunicorn.process.wait(LIMIT_S) == 0
    assert f"{pid} ran its exit handlers" in gunicorn.output
    assert "Traceback" not in gunicorn.output


@with_options(graceful_timeout="300", keep_alive="300")
def test_idle_connections_do_not_delay_the_exit(gunicorn):
    with gunicorn.connect(GET % b"/") as kept, gunicorn.connect():
        read_past(kept, b"ok")
        gunicorn.process.terminate()
        assert gunicorn.process.wait(LIMIT_S) == 0


@with_options(graceful_timeout="300")
@pytest.mark.parametrize("path", [b"/stream", b"/deaf", b"/stuck"])
def test_sigint_ends_streams_at_once_and_without_a_traceback(gunicorn, path):
    with gunicorn.connect(GET % path) as stream:
        read_past(stream, b"tick")
        gunicorn.interrupt()
        assert (b"farewell" in read_all(stream)) == (path == b"/stream")
        assert gunicorn.process.wait(LIMIT_S) == 0
    assert "Traceback" not in gunicorn.output


@with_options(graceful_timeout="60")
def test_a_reload_refuses_no_request(gunicorn):
    old = gunicorn.status()["pid"]
    with gunicorn.connect(GET % b"/stream?8") as stream:
        read_past(stream, b"tick")
        gunicorn.process.send_signal(signal.SIGHUP)
        until(lambda: "Draining 1" in gunicorn.output)
        assert {gunicorn.get("/") for _ in range(20)} == {(200, b"ok")}
        assert gunicorn.status()["pid"] != old
        assert b"the end" in read_all(stream)
