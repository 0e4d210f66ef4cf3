"""OUT: recovered from an earlier run, then appended line by line. Locked for one process at a time."""

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from service.batch.errors import Stopped, UsageError
from service.batch.output_record import OutputRecord, parse_output_record

# A crash of the machine may lose this much; a crash of the program loses no written line.
SYNC_EVERY_S = 1.0
# The prefix of every line: distinguishes an incomplete line from a file that no batch wrote.
_BEGINNING = b'{"id":"batch_req_'


class Journal:
    """OUT, open and locked; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        """Open and lock OUT; create it if it does not exist.

        Raises:
            UsageError: it cannot be opened, is not a regular file, or is locked by another run.
        """
        self._path = path.resolve()
        self._file = _open_locked(self._path)
        self._synced_at = time.monotonic()
        self._unsynced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def recover(self, on_record: Callable[[OutputRecord], None]) -> None:
        """Call `on_record` with every existing line, and truncate a line that a killed run left incomplete.

        Raises:
            UsageError: OUT has a line that no batch wrote.
        """
        end = 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, content in enumerate(file, 1):
                if content.endswith(b"\n"):
                    on_record(self._parsed(content, number))
                    end += len(content)
                elif not (_BEGINNING.startswith(content) or content.startswith(_BEGINNING)):
                    raise self._not_output(number)
        os.ftruncate(self._file, end)

    def drop_errors(self) -> None:
        """Replace OUT atomically with a file that has only the successes.

        Raises:
            UsageError: OUT has a line that no batch wrote, or the new file cannot be written.
        """
        replacement_path = self._path.with_name(f"{self._path.name}.rewriting")
        try:
            # Locked before it is renamed, so that no other run can lock it in between.
            replacement = _open_locked(replacement_path)
            os.ftruncate(replacement, 0)
            with os.fdopen(os.dup(self._file), "rb") as old, os.fdopen(os.dup(replacement), "ab") as new:
                old.seek(0)
                new.writelines(line for number, line in enumerate(old, 1) if self._parsed(line, number).code is None)
            os.fchmod(replacement, stat.S_IMODE(os.fstat(self._file).st_mode))
            os.fsync(replacement)
            replacement_path.replace(self._path)
        except OSError as error:
            raise UsageError(f"cannot write {replacement_path}: {error.strerror}") from None
        os.close(self._file)
        self._file = replacement

    def append(self, content: bytes) -> None:
        """Append a whole line.

        Raises:
            Stopped: it cannot be written, as on a full disk. The next run truncates an incomplete line.
        """
        self._unsynced = True
        try:
            # One call as a rule; a disk that is filling up may accept a part.
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            raise Stopped(f"cannot write {self._path}: {error.strerror}") from None
        self.sync_if_due()

    def sync_if_due(self) -> None:
        """Flush written lines to disk if the last flush was at least `SYNC_EVERY_S` ago."""
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self._sync()

    def close(self) -> None:
        """Flush written lines to disk, close OUT and release the lock."""
        self._sync()
        os.close(self._file)

    def _sync(self) -> None:
        # Not every file system supports it.
        with contextlib.suppress(OSError):
            os.fdatasync(self._file)
        self._synced_at, self._unsynced = time.monotonic(), False

    def _parsed(self, content: bytes, number: int) -> OutputRecord:
        record = parse_output_record(content)
        if record is None:
            raise self._not_output(number)
        return record

    def _not_output(self, number: int) -> UsageError:
        return UsageError(f"line {number} of {self._path} is not the output of a batch; name another OUT, or remove it")


def _open_locked(path: Path) -> int:
    """Open the file at this path, lock it, and return its descriptor."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            os.close(file)
            raise UsageError(f"OUT must be a regular file, as it is read on resume; got {path}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno == errno.EWOULDBLOCK:
                raise UsageError(f"another run is writing {path}; wait for its end, or name another OUT") from None
            raise UsageError(f"cannot lock {path}: {error.strerror}") from None
        # The path may have been replaced between open and lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), status):
                return file
        os.close(file)
