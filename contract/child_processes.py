"""Child processes that end with their parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
# Not loaded in the child: another thread may hold the loader's lock during the fork.
_LIBC = ctypes.CDLL(None)


def terminate_with_parent(parent: int) -> None:
    """Make the kernel send this process SIGTERM when its parent ends, or exit if it has ended; for `preexec_fn`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
