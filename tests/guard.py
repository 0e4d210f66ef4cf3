"""Ends every process of a test run once pytest has ended, even by SIGKILL: `start` it before any test.

The kernel closes pytest's end of a pipe however pytest ends; this program, at the other end, then kills all processes
that inherited the run's environment variable. On Linux only, where /proc shows the environment of a process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

_VARIABLE = "PYTEST_RUN_ID"
# Servers drain on SIGTERM, and chromium removes its profile.
_TERM_S = 5.0


def start() -> subprocess.Popen:
    """Start the guard of this process and mark the environment that its children inherit.

    Returns:
        The guard: once its stdin is closed it kills the remaining processes and exits.
    """
    run = uuid.uuid4().hex
    guard = subprocess.Popen([sys.executable, "-S", __file__, run], stdin=subprocess.PIPE, start_new_session=True)
    os.environ[_VARIABLE] = run
    return guard


def stop(guard: subprocess.Popen) -> None:
    """Let a guard kill the remaining processes, and wait for it."""
    guard.stdin.close()
    guard.wait()


def _main(run: str) -> None:
    sys.stdin.read()
    _signal_all(run, signal.SIGTERM)
    deadline = time.monotonic() + _TERM_S
    while _find(run) and time.monotonic() < deadline:
        time.sleep(0.1)
    while _signal_all(run, signal.SIGKILL) and time.monotonic() < deadline + _TERM_S:
        time.sleep(0.1)


def _find(run: str) -> list[int]:
    """Return the ids of the processes whose environment has the run id; zombies have no environment."""
    mark, pids = f"{_VARIABLE}={run}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                pids.append(int(path.parent.name))
    return pids


def _signal_all(run: str, number: int) -> list[int]:
    pids = _find(run)
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
    return pids


if __name__ == "__main__":
    _main(sys.argv[1])
