"""Files that are whole at any moment, whatever happens while they are written."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Put a text, as UTF-8, into the place of a file.

    A file that is there keeps its permissions, and a link leads to where it led; a new one is for its owner alone, as
    what is written here can be gone on with by whoever reads it.

    Raises:
        OSError: that cannot be done; the file is as it was. The error names the file that was asked for.
    """
    target = os.path.realpath(path)
    try:
        descriptor, draft = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=".draft")
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(content)
        with suppress(FileNotFoundError):
            shutil.copymode(target, draft)
        os.replace(draft, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft)
