"""Detects clients that disconnect while their request waits or runs, so that it can be cancelled.

One thread polls all sockets at once (epoll(7), Linux only), which costs nothing while nobody disconnects. A client
counts as disconnected when it has closed its end, or only its sending half (as `nc -N` does): over TCP the two look
alike until something is written. Unread bytes, such as a pipelined request, are not a disconnect.
"""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Watch:
    fd: int
    on_disconnect: Callable[[], object]
    has_called_back: bool = False


class DisconnectWatcher:
    """A daemon thread that calls back when the other end of a watched socket disconnects.

    Threads do not survive a fork: create it in the serving process. It needs no lock: a descriptor is reported once
    (EPOLLONESHOT), and only the request's thread removes it. With a lock held during epoll_ctl(2), which releases the
    interpreter's lock, 64 concurrent requests waited for each other.
    """

    def __init__(self) -> None:
        self._watches: dict[int, _Watch] = {}
        self._epoll = select.epoll()
        threading.Thread(target=self._run, name="disconnects", daemon=True).start()

    def watch(self, sock: socket.socket | None, on_disconnect: Callable[[], object]) -> contextlib.ExitStack:
        """Call `on_disconnect` once if the other end disconnects, or has done so already, before the watch is closed.

        Args:
            sock: An open, connected stream socket, such as `environ["gunicorn.socket"]`; one watch at a time. It is
                neither read nor changed. Close the watch first. None, as with Flask's test client: nothing is watched.
            on_disconnect: Must return at once, as all sockets share the thread. May still run after the watch has
                been closed, so it should cancel a request by identity. Exceptions are logged.

        Returns:
            The watch, which ends when it is closed: before the socket, any number of times, also within the callback.
        """
        stack = contextlib.ExitStack()
        if sock is None:
            return stack
        watch = _Watch(sock.fileno(), on_disconnect)
        # Before the first event.
        self._watches[watch.fd] = watch
        # EPOLLHUP and EPOLLERR are always reported.
        self._epoll.register(watch.fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        stack.callback(self._unwatch, watch)
        return stack

    def _unwatch(self, watch: _Watch) -> None:
        """Remove a watch; ignore one whose socket was closed first, if another has its descriptor by now."""
        if self._watches.get(watch.fd) is not watch:
            return
        del self._watches[watch.fd]
        with contextlib.suppress(OSError):  # the socket was closed before its watch, and the kernel has removed it
            self._epoll.unregister(watch.fd)

    def _run(self) -> None:
        while True:
            for fd, _ in self._epoll.poll():
                self._check(fd)

    def _check(self, fd: int) -> None:
        """Call back if the descriptor's peer is disconnected: since the event another socket may have got it."""
        watch = self._watches.get(fd)
        if watch is None or watch.has_called_back or not is_disconnected(fd):
            return
        # Still watched, so the descriptor belonged to this socket during the check.
        if self._watches.get(fd) is not watch:
            return
        watch.has_called_back = True
        try:
            watch.on_disconnect()
        except Exception:
            log.exception("a disconnect callback failed")


def is_disconnected(fd: int) -> bool:
    """Return whether the other end of a socket has closed at least its sending half, or the connection is lost."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)  # POLLHUP and POLLERR are always reported
    return bool(poll.poll(0))
