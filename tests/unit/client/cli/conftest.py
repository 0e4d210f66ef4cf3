"""Fixtures of the command line's tests: the program within the test process, in a terminal or as a process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from sostenuto._cli.program import program
from tests.terminals import Terminal, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.client.scripted_server import ScriptedServer


@pytest.fixture(autouse=True)
def _no_wishes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOSTENUTO_MODEL", "NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def sostenuto(
    server: ScriptedServer,
    waits: list[float],  # noqa: ARG001 - no test should sleep
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Result]:
    """Run a command against the scripted server; `given` is standard input, as bytes or text."""
    monkeypatch.setenv("SOSTENUTO_BASE_URL", server.url)

    def run(*arguments: str, given: bytes | str = b"") -> Result:
        return CliRunner().invoke(program, arguments, input=given, prog_name="sostenuto")

    return run


@pytest.fixture
def terminal(server: ScriptedServer) -> Iterator[Callable[..., Terminal]]:
    """Run a command in a pseudo-terminal, against the scripted server."""
    started: list[Terminal] = []

    def start(*arguments: str, **how: Any) -> Terminal:
        started.append(Terminal(*arguments, **{"SOSTENUTO_BASE_URL": server.url, **how}))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


@pytest.fixture
def process(server: ScriptedServer) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a command as a process with pipes, against the scripted server."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, stdin: Any = subprocess.DEVNULL, **variables: str) -> subprocess.Popen[bytes]:
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "sostenuto", *arguments],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(**{"SOSTENUTO_BASE_URL": server.url, **variables}),
            )
        )
        return started[-1]

    yield start
    for running in started:
        if running.poll() is None:
            running.kill()
        running.communicate()
