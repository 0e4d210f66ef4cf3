"""Notices clients that leave while their request is queued or runs, so that nobody computes for them.

Knows sockets and callbacks; knows nothing of HTTP. One thread asks the kernel about all sockets at once (epoll(7),
Linux only), which costs nothing while nobody leaves. A client counts as gone when it has closed its end, or just its
sending half (`nc -N` does that): over TCP the two look alike until something is written. Bytes that wait to be read,
such as a pipelined request, are no sign of leaving.
"""

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)


class Watch:
    """A socket under watch, until it is closed: a context manager."""

    def __init__(self, watcher: "DisconnectWatcher", fd: int, on_gone: Callable[[], object]) -> None:
        """See `DisconnectWatcher.watch`."""
        self.fd = fd
        self.on_gone = on_gone
        self._watcher = watcher

    def close(self) -> None:
        """Stop watching, before the socket is closed. Can be repeated, and from within the callback too."""
        self._watcher.unwatch(self)

    def __enter__(self) -> Self:
        """Return the watch itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop watching."""
        self.close()


class DisconnectWatcher:
    """Calls back, from a daemon thread of its own, when the other end of a watched socket is gone.

    Threads do not survive a fork: make one in the process that serves.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._lock = threading.Lock()  # held while a watch begins, ends or is judged: a watched descriptor stays open
        self._watches: dict[int, Watch] = {}
        self._epoll = select.epoll()
        self._stop_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._stop_fd, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="disconnects", daemon=True)
        self._thread.start()

    def watch(self, sock: socket.socket, on_gone: Callable[[], object]) -> Watch:
        """Call `on_gone` once if the other end leaves, or has left already, before the watch is closed.

        Args:
            sock: An open, connected stream socket, such as `environ["gunicorn.socket"]`; one watch at a time. It is
                neither read nor changed. Close the watch before it.
            on_gone: Must return at once, as all sockets share the thread, and may still be running when the watch has
                been closed: it should cancel a request by identity. What it raises is logged.

        Raises:
            ValueError: the socket has been closed at this end, or the watcher has been.
            FileExistsError: the socket is being watched.
        """
        with self._lock:
            watch = Watch(self, sock.fileno(), on_gone)
            self._epoll.register(watch.fd, select.EPOLLRDHUP)  # EPOLLHUP and EPOLLERR are always reported
            self._watches[watch.fd] = watch
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Forget a watch; one that is over, or whose watcher has been closed, is ignored."""
        with self._lock:
            if self._watches.get(watch.fd) is watch:
                self._forget(watch)

    def close(self) -> None:
        """Forget all watches, without calling back, and end the thread. Not for use in a callback; can be repeated."""
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
                self._judge(fd)

    def _judge(self, fd: int) -> None:
        """Call back for a descriptor that is gone now: since epoll named it, it may have become another socket's."""
        with self._lock:
            watch = self._watches.get(fd)
            if watch is None or not is_gone(fd):
                return
            self._forget(watch)
        try:
            watch.on_gone()
        except Exception:
            log.exception("What should follow a disconnect failed")

    def _forget(self, watch: Watch) -> None:
        del self._watches[watch.fd]
        with contextlib.suppress(OSError):  # the socket was closed too early, and the kernel has forgotten it
            self._epoll.unregister(watch.fd)


def is_gone(fd: int) -> bool:
    """Whether the other end of a connected socket has closed, at least its sending half, or the connection is lost."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)  # POLLHUP and POLLERR are always reported
    return bool(poll.poll(0))
