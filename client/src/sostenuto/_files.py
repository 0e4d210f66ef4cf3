"""Atomic file writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Replace a file's content with a text, as UTF-8, atomically.

    An existing file keeps its permissions, and symbolic links are followed. A new file is readable by its owner only,
    because anyone who can read a resume token can resume from it.

    Raises:
        OSError: the file cannot be written; it is unchanged. The error names `path`.
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
