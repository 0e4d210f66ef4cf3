"""OUT: whole lines are appended, and an earlier run's are read first. One process at a time may have it open."""

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

# What a crash of the machine may cost; a crash of the program costs nothing that was written.
SYNC_EVERY_S = 1.0
# How every line begins, by which a torn one is told from somebody's own file.
_BEGINNING = b'{"id":"batch_req_'


class Journal:
    """OUT, locked. A context that closes it."""

    def __init__(self, path: Path) -> None:
        """Open and lock it; it is made if need be.

        Raises:
            UsageError: it cannot be opened, is no file, or another run has it.
        """
        self._path = path.resolve()
        self._file = _locked(self._path)
        self._synced_at = time.monotonic()
        self._unsynced = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def recover(self, take: Callable[[OutputRecord], None]) -> None:
        """Tell of every line that there is, and cut off one that was torn when the last run was killed.

        Raises:
            UsageError: it is not what a batch writes.
        """
        end = 0
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, content in enumerate(file, 1):
                if content.endswith(b"\n"):
                    take(self._parsed(content, number))
                    end += len(content)
                elif not (_BEGINNING.startswith(content) or content.startswith(_BEGINNING)):
                    raise self._foreign(number)
        os.ftruncate(self._file, end)

    def drop_errors(self) -> None:
        """Put in its place a file that has the successes alone; whenever this is killed, one of both is there, whole.

        Raises:
            UsageError: it is not what a batch writes, or there is no room for another.
        """
        beside = self._path.with_name(f"{self._path.name}.rewriting")
        try:
            # Locked before it gets the name, so that nobody comes between.
            replacement = _locked(beside)
            os.ftruncate(replacement, 0)
            with os.fdopen(os.dup(self._file), "rb") as old, os.fdopen(os.dup(replacement), "ab") as new:
                old.seek(0)
                new.writelines(line for number, line in enumerate(old, 1) if self._parsed(line, number).code is None)
            os.fchmod(replacement, stat.S_IMODE(os.fstat(self._file).st_mode))
            os.fsync(replacement)
            beside.replace(self._path)
        except OSError as error:
            raise UsageError(f"cannot write {beside}: {error.strerror}") from None
        os.close(self._file)
        self._file = replacement

    def append(self, content: bytes) -> None:
        """Write a whole line.

        Raises:
            Stopped: there is no room for it. What was torn is cut off by the next run.
        """
        self._unsynced = True
        try:
            # One call as a rule; a disk that fills up may take a part.
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            raise Stopped(f"cannot write {self._path}: {error.strerror}") from None
        self.sync_if_due()

    def sync_if_due(self) -> None:
        """Have the disk take what was written, if that is a second ago."""
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self._sync()

    def close(self) -> None:
        """Have the disk take what was written, and unlock."""
        self._sync()
        os.close(self._file)

    def _sync(self) -> None:
        # Not every file system can.
        with contextlib.suppress(OSError):
            os.fdatasync(self._file)
        self._synced_at, self._unsynced = time.monotonic(), False

    def _parsed(self, content: bytes, number: int) -> OutputRecord:
        written = parse_output_record(content)
        if written is None:
            raise self._foreign(number)
        return written

    def _foreign(self, number: int) -> UsageError:
        return UsageError(f"line {number} of {self._path} is not a batch's answer; name another OUT, or remove it")


def _locked(path: Path) -> int:
    """Return a descriptor of the file that has this name, locked."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from None
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            os.close(file)
            raise UsageError(f"OUT must be a file, as a run that goes on reads it; got {path}")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno == errno.EWOULDBLOCK:
                raise UsageError(f"another run is writing {path}; wait for its end, or name another OUT") from None
            raise UsageError(f"cannot lock {path}: {error.strerror}") from None
        # It may have been renamed away between both.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), found):
                return file
        os.close(file)
