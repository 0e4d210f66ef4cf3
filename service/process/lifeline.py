"""Processes that are signalled by Linux when others end, however those end.

Knows pipes and signals. Does not know what the processes do.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal

_PR_SET_PDEATHSIG = 1


def terminate_with_parent(parent: int) -> None:
    """Have the kernel send this process SIGTERM when its parent ends, or exit if it has ended; for `preexec_fn`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


class Lifeline:
    """A pipe by which one process detects that the last of several others has ended.

    The processes that hold the write end are its holders: this process until it calls `drop`, those that it was passed
    to, and their children. However they end, the kernel closes their ends; the pipe is then cut.
    """

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()
        self._is_dropped = False

    def terminate_when_cut(self) -> None:
        """Have the kernel send this process SIGTERM when the pipe is cut; for `preexec_fn`, with `read_fd` passed on.

        `fork` makes this process a holder until `exec`: if all other holders have ended before, `exec` cuts the pipe.
        """
        fcntl.fcntl(self.read_fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self.read_fd, fcntl.F_SETSIG, signal.SIGTERM)
        flags = fcntl.fcntl(self.read_fd, fcntl.F_GETFL)
        fcntl.fcntl(self.read_fd, fcntl.F_SETFL, flags | os.O_ASYNC)

    def drop(self) -> None:
        """Stop being a holder; may be repeated."""
        if not self._is_dropped:
            self._is_dropped = True
            os.close(self.write_fd)

    @property
    def is_cut(self) -> bool:
        """Whether no holder is left."""
        poll = select.poll()
        poll.register(self.read_fd, 0)  # POLLHUP is always reported
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close both ends."""
        self.drop()
        with contextlib.suppress(OSError):
            os.close(self.read_fd)
