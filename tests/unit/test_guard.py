"""The guard that ends all processes of a test run when pytest ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import is_running
from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT_S = 30
# In place of pytest: it starts the guard, then a server in its own session, and prints the server's process id.
RUN = """
import subprocess, sys, time
from tests import guard

mine = guard.start()
code = {server!r}
server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
server.stdout.readline()
print(server.pid, flush=True)
time.sleep({sleep_s})
guard.stop(mine)
"""
SERVER = "print(flush=True); import time; time.sleep(60)"
DEAF_SERVER = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc of Linux")


def start_run(server, sleep_s):
    """Start a run and return it with its server's process id."""
    run = subprocess.Popen(
        [sys.executable, "-c", RUN.format(server=server, sleep_s=sleep_s)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    return run, int(run.stdout.readline())


@pytest.mark.parametrize("server", [SERVER, DEAF_SERVER], ids=["", "deaf to SIGTERM"])
def test_a_killed_run_leaves_no_server(server):
    """Not even one in its own session, or one that ignores SIGTERM."""
    run, pid = start_run(server, 60)
    assert is_running(pid)
    with run:
        run.send_signal(signal.SIGKILL)
    until(lambda: not is_running(pid))


def test_a_run_that_ends_leaves_no_server():
    """`stop` waits until none is running."""
    run, pid = start_run(SERVER, 0)
    with run:
        assert run.wait(LIMIT_S) == 0
    assert not is_running(pid)
