"""Freed memory is returned to the operating system, whichever thread allocated it."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

# Threads allocate blocks and a small object after them, and free the blocks; prints the resident MiB that remain.
PROGRAM = """
import threading
from service.process.allocator import return_freed_memory
assert return_freed_memory()
kept, barrier = [], threading.Barrier(32)
# Once a large block was freed, glibc by itself would map no smaller one any more.
large = b"x" * 30_000_000
del large
def work():
    blocks = [b"x" * 400_000 + b"y" for _ in range(20)]
    kept.append(b"x" * 1000 + b"y")
    barrier.wait()
    blocks.clear()
    barrier.wait()
threads = [threading.Thread(target=work) for _ in range(32)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_blocks_are_returned_to_the_system():
    """32 threads free 256 MB, and less than 60 MiB stay resident."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT, timeout=240, check=True
    )
    assert int(run.stdout) < 60
