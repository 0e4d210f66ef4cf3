"""Detects clients that disconnect while their request waits or runs, so that it can be cancelled.

Knows sockets and callbacks. Does not know HTTP. One thread polls all sockets at once (epoll(7), Linux only), which
costs nothing while nobody disconnects. A client counts as gone when it has closed its end, or only its sending half
(`nc -N` does that): over TCP the two look alike until something is written. Unread bytes, such as a pipelined request,
are no disconnect.
"""

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Watch(contextlib.AbstractContextManager["Watch"]):
    """A watched socket; a context manager that stops watching."""

    def __init__(self, watcher: "DisconnectWatcher", fd: int, on_gone: Callable[[], object]) -> None:
        """See `DisconnectWatcher.watch`."""
        self.fd = fd
        self.on_gone = on_gone
        self._watcher = watcher

    def close(self) -> None:
        """Stop watching; call it before the socket is closed. May be repeated, also from within the callback."""
        self._watcher.unwatch(self)

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self.close()


class DisconnectWatcher:
    """A daemon thread that calls back when the other end of a watched socket is gone.

    Threads do not survive a fork: create it in the serving process.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._lock = threading.Lock()  # held while a watch starts, ends or is checked: a watched descriptor stays open
        self._watches: dict[int, Watch] = {}
        self._epoll = select.epoll()
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._stop_fd, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="disconnects", daemon=True)
        self._thread.start()

    def watch(self, sock: socket.socket, on_gone: Callable[[], object]) -> Watch:
        """Call `on_gone` once if the other end disconnects, or has disconnected already, before the watch is closed.

        Args:
            sock: An open, connected stream socket, such as `environ["gunicorn.socket"]`; one watch at a time. It is
                neither read nor changed. Close the watch before it.
            on_gone: Must return at once, as all sockets share the thread. May still be running after the watch has been
                closed, so it should cancel a request by identity. Exceptions are logged.

        Raises:
            ValueError: the socket has been closed at this end, or the watcher has been closed.
            FileExistsError: the socket is already watched.
        """
        with self._lock:
            watch = Watch(self, sock.fileno(), on_gone)
            self._epoll.register(watch.fd, select.EPOLLRDHUP)  # EPOLLHUP and EPOLLERR are always reported
            self._watches[watch.fd] = watch
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Remove a watch; ignore one that has ended or whose watcher has been closed."""
        with self._lock:
            if self._watches.get(watch.fd) is watch:
                self._remove(watch)

    def close(self) -> None:
        """Remove all watches without calling back, and end the thread. Not for use in a callback; may be repeated."""
        with self._lock:
            self._watches.clear()
        if not self._epoll.closed:
            os.eventfd_write(self._stop_fd, 1)
            self._thread.join()
            self._epoll.close()
            os.close(self._stop_fd)

    def _run(self) -> None:
        while True:
            fds = [fd for fd, _ in self._epoll.poll()]
            if self._stop_fd in fds:
                return
            for fd in fds:
                self._check(fd)

    def _check(self, fd: int) -> None:
        """Call back if the descriptor's peer is gone now: since epoll returned it, it may belong to another socket."""
        with self._lock:
            watch = self._watches.get(fd)
            if watch is None or not is_gone(fd):
                return
            self._remove(watch)
        try:
            watch.on_gone()
        except Exception:
            log.exception("a disconnect callback failed")

    def _remove(self, watch: Watch) -> None:
        del self._watches[watch.fd]
        with contextlib.suppress(OSError):  # the socket was closed before its watch, and the kernel has removed it
            self._epoll.unregister(watch.fd)


def is_gone(fd: int) -> bool:
    """Return whether the other end of a socket has closed at least its sending half, or the connection is lost."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)  # POLLHUP and POLLERR are always reported
    return bool(poll.poll(0))
