"""Fixtures of the command line's tests: the program within the test process or in a terminal."""

import pytest
from click.testing import CliRunner

from sostenuto._cli.program import program
from tests.terminals import Terminal


@pytest.fixture
def sostenuto(
    server,
    waits,  # noqa: ARG001 - no test should sleep
    monkeypatch,
):
    """Run a command against the scripted server; `given` is standard input, as bytes or text."""
    monkeypatch.setenv("SOSTENUTO_BASE_URL", server.url)

    def run(*arguments, given=b""):
        return CliRunner().invoke(program, arguments, input=given, prog_name="sostenuto")

    return run


@pytest.fixture
def terminal(server):
    """Run a command in a pseudo-terminal, against the scripted server."""
    started = []

    def start(*arguments, **how):
        started.append(Terminal(*arguments, **{"SOSTENUTO_BASE_URL": server.url, **how}))
        return started[-1]

    yield start
    for running in started:
        running.process.kill()
        running.process.wait()
