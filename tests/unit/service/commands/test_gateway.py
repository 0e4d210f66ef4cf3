"""The gateway under gunicorn: signals by which gunicorn starts further processes, and memory that is returned."""

import signal
import subprocess
import sys

import pytest

from service.commands import gateway as module
from tests.paths import ROOT
from tests.ports import free_port
from tests.servers import Gateway, children


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGTTIN"])
def test_a_signal_that_would_start_another_process_is_refused(tmp_path, name):
    gateway = Gateway(tmp_path, free_port(), tmp_path / "log", ready=False)
    try:
        workers = children(gateway.process.pid)
        gateway.send(getattr(signal, name))
        gateway.wait_until(lambda: f"{name} ignored" in gateway.output, timeout=30)
        assert gateway.get("/healthz") == (200, {"status": "ok"})
        assert children(gateway.process.pid) == workers
    finally:
        assert gateway.end() == 0
    assert "Traceback" not in gateway.output


# Threads allocate blocks and a small object after them, and free the blocks; prints the resident MiB that remain.
PROGRAM = """
import threading
from service.commands.gateway import return_freed_memory
return_freed_memory()
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
    """32 threads free 256 MB, and less than 120 MiB stay resident, of which the imports take 60."""
    printed = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True, cwd=ROOT, timeout=240)
    assert int(printed) < 120


def test_a_worker_that_has_not_booted_is_closed():
    module._close(None, object())
