"""What this machine can do, as far as it can be told without starting TensorFlow."""

import contextlib
import os
from pathlib import Path

# A CPU without one of these flags emulates bfloat16 by converting every number, which is slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO, _FIRST_GPU = Path("/proc/cpuinfo"), Path("/dev/nvidia0")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 products."""
    with contextlib.suppress(OSError), _CPUINFO.open(encoding="ascii", errors="replace") as lines:
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
        return not _BFLOAT16_FLAGS.isdisjoint(flags.split())
    return False


def has_gpu() -> bool:
    """Return whether the driver of an NVIDIA GPU has made its device file."""
    return _FIRST_GPU.exists()
