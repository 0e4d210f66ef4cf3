"""Runs commands, and has the error that the build reports in one line."""

import subprocess
from collections.abc import Sequence
from pathlib import Path


class BuildError(Exception):
    """A build error that the user can fix; the message says how."""


def output_of(command: Sequence[str | Path], problem: str, stdin: str = "") -> str:
    """Return what a command prints.

    Raises:
        BuildError: it fails; the message is `problem` and what the command says.
    """
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{problem}: {done.stderr.strip()}")
    return done.stdout
