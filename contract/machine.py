"""What this machine can do, as far as it can be told without starting TensorFlow."""

import os
from pathlib import Path

from contract.files import read_file

# A CPU without one of these flags emulates bfloat16 by converting every number, which is slower than float32.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_CPUINFO, _FIRST_GPU = Path("/proc/cpuinfo"), Path("/dev/nvidia0")


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def read_cpuinfo() -> dict[str, str]:
    """Return the fields of the first core in /proc/cpuinfo; none without that file."""
    try:
        text = read_file(_CPUINFO).decode(errors="replace")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}


def _flags() -> list[str]:
    cpuinfo = read_cpuinfo()
    # On arm64 the field is Features.
    return f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split()


def multiplies_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16 products."""
    return not _BFLOAT16_FLAGS.isdisjoint(_flags())


def has_amx() -> bool:
    """Return whether this CPU multiplies whole tiles in bfloat16, as Intel's do since 2023."""
    return "amx_bf16" in _flags()


def has_fast_bfloat16() -> bool:
    """Return whether this CPU serves clearly faster with bfloat16 products than with float32.

    From 512 to 2,048 units prefill is 2.1 to 4.5 times as fast with AMX. With AVX512-BF16 alone a layer is 1.6 to 2
    times as fast on AMD's CPUs, but prefill 0.7 to 1.2 times on Intel's. Otherwise it is at most as fast
    (`benchmarks/HISTORY.md`).
    """
    return has_amx() or ("avx512_bf16" in _flags() and read_cpuinfo().get("vendor_id") == "AuthenticAMD")


def has_gpu() -> bool:
    """Return whether the driver of an NVIDIA GPU has made its device file."""
    return _FIRST_GPU.exists()
