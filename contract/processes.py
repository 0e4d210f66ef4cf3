"""Child processes that end with their parent, and output of imports that is suppressed."""

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_PR_SET_PDEATHSIG = 1
# Not loaded in the child: another thread may hold the loader's lock during the fork.
_LIBC = ctypes.CDLL(None)


def terminate_with_parent(parent: int) -> None:
    """Make the kernel send this process SIGTERM when its parent ends, or exit if it has ended; for `preexec_fn`."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Capture the process's output on file descriptor 2, also of C libraries; print it if the block raises.

    TensorFlow 2.21 prints about eight lines about CPUs and drivers on import, whatever TF_CPP_MIN_LOG_LEVEL says.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
