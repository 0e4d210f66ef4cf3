"""Resume tokens on the command line: a token, or the file that contains it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sostenuto._cli.errors import Failure, failing_to
from sostenuto._conversation import write_whole

_TOKEN = re.compile(r"ost\d+\.")  # prefix of every token


def token(argument: str) -> str:
    """Return a resume token, given directly or as the name of a file; raise Failure if there is none in the file."""
    if _TOKEN.match(argument):
        return argument
    with failing_to(f"read the resume token in {argument:.60}"):
        content = Path(argument).read_bytes().decode("utf-8", "replace").strip()
    if not _TOKEN.match(content):
        raise Failure(f"{argument} has no resume token: pass a file of --save-state")
    return content


def check_place(path: Path) -> None:
    """Raise Failure, before there is a token, if none can be written to a path."""
    if not path.parent.is_dir():
        raise Failure(f"cannot write {path}: there is no directory {path.parent}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"cannot write {path}: pass a file in a writable directory")


def save(state: str, path: Path) -> None:
    """Write a resume token to a file, atomically, or raise Failure."""
    with failing_to(f"write {path}"):
        write_whole(path, state + "\n")
