"""The disconnect watcher, on real TCP connections of the loopback interface."""

import os
import queue
import resource
import socket
import struct
import threading
import time
from contextlib import ExitStack

import pytest

from service.http_server.disconnects import DisconnectWatcher, is_disconnected
from tests.waiting import until

LIMIT_S = 10.0


@pytest.fixture
def watcher():
    return DisconnectWatcher()


@pytest.fixture
def connect():
    """Return a function that makes a connection: the server's socket and the client's."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def connect():
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            return stack.enter_context(listener.accept()[0]), client

        yield connect


def reset(client):
    """Reset a connection: a zero linger time sends RST (socket(7))."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave(pair):
    """Close the client's end, and wait until the server's socket is disconnected."""
    server, client = pair
    client.close()
    until(lambda: is_disconnected(server.fileno()))


def pass_through(watcher, pair):
    """Wait until the watcher has handled every earlier event."""
    server, client = pair
    dealt_with = threading.Event()
    with watcher.watch(server, dealt_with.set):
        client.close()
        assert dealt_with.wait(LIMIT_S)


@pytest.mark.parametrize(
    "depart",
    [socket.socket.close, lambda client: client.shutdown(socket.SHUT_WR), reset],
    ids=["closes", "half-closes", "resets"],
)
@pytest.mark.parametrize("before", [False, True], ids=["while watched", "before"])
def test_a_disconnect_calls_back_once(watcher, connect, depart, before):
    calls = queue.SimpleQueue()
    server, client = connect()
    if before:
        depart(client)
    with watcher.watch(server, lambda: calls.put(threading.current_thread().name)):
        if not before:
            depart(client)
        assert calls.get(timeout=LIMIT_S) == "disconnects"
        pass_through(watcher, connect())
    assert calls.empty()


def test_unread_bytes_are_no_disconnect(watcher, connect):
    """A client that has already sent its next request is still connected, and its disconnect is noticed later."""
    gone = threading.Event()
    server, client = connect()
    client.sendall(b"GET /next HTTP/1.1\r\n\r\n")
    with watcher.watch(server, gone.set):
        pass_through(watcher, connect())
        assert not gone.is_set()
        client.close()
        assert gone.wait(LIMIT_S)


def test_a_closed_watch_does_not_call_back(watcher, connect):
    gone = threading.Event()
    server, client = connect()
    watch = watcher.watch(server, gone.set)
    watch.close()
    watch.close()
    client.close()
    pass_through(watcher, connect())
    assert not gone.is_set()


def test_a_kept_alive_socket_can_be_watched_again(watcher, connect):
    first, second = threading.Event(), threading.Event()
    server, client = connect()
    former = watcher.watch(server, first.set)
    former.close()
    with watcher.watch(server, second.set):
        former.close()
        client.close()
        assert second.wait(LIMIT_S)
    assert not first.is_set()


def test_a_reused_descriptor_gets_no_event_of_its_former_socket(watcher, connect):
    """An event that was reported for a closed socket does not concern the socket that now has its descriptor."""
    barrier, wrong = threading.Barrier(2), threading.Event()
    first, second, former = connect(), connect(), connect()

    def pause():
        barrier.wait(LIMIT_S)
        barrier.wait(LIMIT_S)

    with watcher.watch(first[0], pause), watcher.watch(second[0], pause):
        old = watcher.watch(former[0], wrong.set)
        leave(first)
        barrier.wait(LIMIT_S)  # the thread is in the first callback: the other two will be reported together, in order
        leave(second)
        leave(former)
        barrier.wait(LIMIT_S)
        barrier.wait(LIMIT_S)  # the thread is in the second callback, and has not handled the third event yet
        old.close()
        descriptor = former[0].detach()
        heir, client = connect()
        os.dup2(heir.fileno(), descriptor)
        with socket.socket(fileno=descriptor) as reused, watcher.watch(reused, wrong.set):
            barrier.wait(LIMIT_S)
            pass_through(watcher, connect())
            assert not wrong.is_set()
            client.close()
            assert wrong.wait(LIMIT_S)


def test_an_exception_in_a_callback_is_logged_and_affects_no_other(watcher, connect, caplog):
    server, client = connect()
    with watcher.watch(server, lambda: 1 / 0):
        client.close()
        pass_through(watcher, connect())
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_can_close_its_own_watch(watcher, connect):
    """No lock is held while a callback runs."""
    done = threading.Event()
    server, client = connect()

    def on_gone():
        watch.close()
        done.set()

    watch = watcher.watch(server, on_gone)
    client.close()
    assert done.wait(LIMIT_S)


def test_a_thousand_idle_clients_take_no_cpu():
    earlier = set(threading.enumerate())
    watcher = DisconnectWatcher()
    (thread,) = (each for each in set(threading.enumerate()) - earlier if each.name == "disconnects")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        pairs = [tuple(stack.enter_context(end) for end in socket.socketpair()) for _ in range(1001)]
        left = threading.Event()
        for server, _ in pairs:
            stack.enter_context(watcher.watch(server, left.set))
        pairs[1][1].send(b"nobody reads this")
        pairs[0][1].close()
        assert left.wait(LIMIT_S)
        # The time of this thread alone: others of earlier tests may still run.
        clock = time.pthread_getcpuclockid(thread.ident)
        before = time.clock_gettime(clock)
        time.sleep(0.5)
        assert time.clock_gettime(clock) - before < 0.1
