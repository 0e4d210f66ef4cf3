"""Child processes that end with their parent."""

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def terminate_with_parent(parent: int) -> None:
    """Make the kernel send this process SIGTERM when its parent ends, or exit if it has ended; for `preexec_fn`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
