"""States on the command line: a token, or the file that holds one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ostinato._cli.errors import Failure, reason
from ostinato._files import write_whole

_TOKEN = re.compile(r"ost\d+\.")  # what every token begins with


def token(given: str) -> str:
    """Return a token that is given itself, or in the file that is named.

    Raises:
        Failure: the file holds none.
    """
    if _TOKEN.match(given):
        return given
    try:
        content = Path(given).read_bytes().decode("utf-8", "replace").strip()
    except OSError as error:
        raise Failure(f"cannot read the state in {given:.60}: {reason(error)}") from error
    if not _TOKEN.match(content):
        raise Failure(f"{given} holds no state: name a file that --save-state wrote")
    return content


def check_place(path: Path) -> None:
    """See that a state can be written before there is one.

    Raises:
        Failure: it can't.
    """
    if not path.parent.is_dir():
        raise Failure(f"cannot write {path}: there is no folder {path.parent}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failure(f"cannot write {path}: name a file in a folder that you may write to")


def save(state: str, path: Path) -> None:
    """Write a state to a file, which is whole at any moment.

    Raises:
        Failure: it can't be written.
    """
    try:
        write_whole(path, state + "\n")
    except OSError as error:
        raise Failure(f"cannot write {path}: {reason(error)}") from error
