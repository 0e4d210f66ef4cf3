"""A file whose content is reloaded when it changes."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from service.errors import ConfigurationError

log = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[int, int, int] | None


class ReloadingFile(Generic[T]):
    """The parsed content of a file, which is reloaded when the file changes.

    If the file becomes invalid, unreadable or missing after the start, the last valid content stays in effect: an
    operator's mistake must not lock out clients.

    `read` parses the file, or raises `ConfigurationError`; `describe` summarizes the content for the log.
    """

    def __init__(
        self, path: Path, read: Callable[[Path], T], describe: Callable[[T], str], check_every_s: float = 0.0
    ) -> None:
        self._path, self._read, self._describe = path, read, describe
        self._check_every_s = check_every_s
        self._stamp, self._content = stamp(path), read(path)
        self._next_check_at = time.monotonic() + check_every_s
        self._lock = threading.Lock()
        self._last_problem: tuple[Stamp, str] | None = None

    def content(self) -> T:
        """Return the current content; while one thread checks the file, the others get what is loaded."""
        if time.monotonic() >= self._next_check_at and self._lock.acquire(blocking=False):
            try:
                self._next_check_at = time.monotonic() + self._check_every_s
                self._reload_if_changed(stamp(self._path))
            finally:
                self._lock.release()
        return self._content

    def _reload_if_changed(self, current: Stamp) -> None:
        if current is not None and current == self._stamp:
            self._last_problem = None
            return
        # Retried at every check: a later change of permissions does not change the stamp.
        try:
            self._content = self._read(self._path)
        except ConfigurationError as error:
            if self._last_problem != (current, str(error)):
                self._last_problem = (current, str(error))
                log.error("%s; the previous content stays in effect", error)
            return
        self._stamp, self._last_problem = current, None
        log.info("%s: reloaded: %s", self._path, self._describe(self._content))


def stamp(path: Path) -> Stamp:
    """Return modification time, size and inode of a file, or None if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
