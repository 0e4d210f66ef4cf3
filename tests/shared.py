"""A server that all test processes of a run share: the first one that needs it starts it, the last one ends it."""

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

from tests.servers import Process

_END_S = 30
# Those that this process started, whoever ends them: a Popen that is collected before its process ended is a warning.
_STARTED: list[Process] = []


@contextlib.contextmanager
def shared(directory: Path, start: Callable[[Path], Process]) -> Iterator[SimpleNamespace]:
    """Yield the server's `port`.

    Should a test process be killed, the run's guard ends the server.

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
    """Yield what is known of the server, which is kept in a file, and keep the other processes out."""
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
    """Terminate a process and wait until it has ended, be it a child or another's."""
    deadline = time.monotonic() + _END_S
    os.kill(pid, signal.SIGTERM)
    while _is_running(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    """Whether it runs; one that ended stays as a zombie until its parent asks for its status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
