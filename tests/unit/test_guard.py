"""The guard that ends all processes of a test run when pytest ends."""

import os
import signal
import subprocess
import sys

import pytest

from tests.paths import ROOT
from tests.servers import is_running
from tests.waiting import until

LIMIT_S = 30
# In place of pytest: it starts the guard, then a server in its own session, prints the server's process id, and ends.
RUN = """
import subprocess, sys
from tests import guard

mine = guard.start()
code = {server!r}
server = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
server.stdout.readline()
print(server.pid, flush=True)
guard.stop(mine)
"""
# It sleeps for longer than a test waits for its end.
SERVER = "print(flush=True); import time; time.sleep(600)"
DEAF_SERVER = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SERVER

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc of Linux")


FAILED_RUN = """
import os, subprocess, sys, time
from pathlib import Path

def test_fails():
    server = subprocess.Popen([sys.executable, "-c", {server!r}], stdout=subprocess.PIPE, start_new_session=True)
    server.stdout.readline()
    Path("pids").write_text(f"{{server.pid}} {{os.getpid()}}")
    raise AssertionError

def test_runs_on():
    Path("pids").rename("all-pids")
    time.sleep(600)
"""


def test_a_failed_run_of_pytest_that_is_killed_leaves_neither_server_nor_worker(tmp_path):
    """The guard is started by tests/conftest.py, and a worker of xdist does not outlive its controller."""
    (tmp_path / "test_it.py").write_text(FAILED_RUN.format(server=DEAF_SERVER))
    plugins = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--numprocesses", "1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", *plugins, "--rootdir", str(tmp_path), "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    with run:
        until((tmp_path / "all-pids").exists)
        pids = [int(pid) for pid in (tmp_path / "all-pids").read_text().split()]
        assert all(map(is_running, pids))
        run.send_signal(signal.SIGKILL)
    until(lambda: not any(map(is_running, pids)))


def test_a_run_that_ends_leaves_no_server():
    """`stop` waits until none is running."""
    command = [sys.executable, "-c", RUN.format(server=SERVER)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, timeout=LIMIT_S, check=True)
    assert not is_running(int(done.stdout))
