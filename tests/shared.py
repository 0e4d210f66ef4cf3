"""A server that all test processes of a run share: the first that needs it starts it, the last to finish stops it."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from tests.servers import Process, is_running

_END_S = 30
# Keeps the Popen objects alive: Python warns when one is collected while its process still runs.
_STARTED: list[Process] = []


@contextlib.contextmanager
def shared(directory: Path, start: Callable[[Path], Process]) -> Iterator[SimpleNamespace]:
    """Yield the server's `port`.

    If a test process is killed, `tests.guard` stops the server at the end of the run.

    Args:
        directory: The same one for all processes of the run, for this server alone.
        start: Starts the server with its log at a path; its process has a `port`.
    """
    with _locked(directory) as state:
        if not state.get("users"):
            server = start(directory / "server.log")
            _STARTED.append(server)
            state |= {"port": server.port, "pid": server.process.pid, "users": 0}
        state["users"] += 1
    yield SimpleNamespace(port=state["port"])
    with _locked(directory) as state:
        state["users"] -= 1
        if not state["users"]:
            _end(state["pid"])
    for server in _STARTED:
        server.process.poll()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[dict]:
    """Lock the state file, yield its contents, and write them back."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "state.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        state = json.loads(file.read() or "{}")
        yield state
        file.seek(0)
        file.truncate()
        json.dump(state, file)


def _end(pid: int) -> None:
    """Terminate a process, a child or not, and wait until it has exited."""
    deadline = time.monotonic() + _END_S
    os.kill(pid, signal.SIGTERM)
    while is_running(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
