"""OUT and, for formats without errors, the errors file: recovered from an earlier run, then appended to.

Each file is locked for one process at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from sostenuto._batch.errors import ForeignContent, OutputLost, Stopped, UsageError
from sostenuto._batch.formats import OPENAI, OutputFormat, OutputLine, OutputRecord

# A crash of the machine may lose this much; a crash of the program loses no written line.
SYNC_EVERY_S = 1.0


class Journal(AbstractContextManager["Journal"]):
    """A file of responses, open and locked; a context manager that closes it."""

    def __init__(self, path: Path, output_format: OutputFormat = OPENAI) -> None:
        """Open and lock the file; create it if it does not exist. Raise UsageError if that is impossible."""
        self._given_path, self._path, self._format = path, path.resolve(), output_format
        self._file = _open_locked(self._path)
        self._sync_directory()
        self._synced_at = time.monotonic()
        self._unsynced = False

    def __exit__(self, *exception: object) -> None:
        """Flush written lines to disk, close the file and release the lock."""
        self._sync()
        os.close(self._file)

    def recover(self, on_record: Callable[[OutputRecord], None]) -> None:
        """Call `on_record` with every existing record, and truncate an incomplete one of a killed run.

        Raise UsageError, and change nothing, if the file has a line that no batch wrote in this format.
        """
        end = 0
        for content, record in self._contents():
            end += len(content)
            if record is not None:
                on_record(record)
        os.ftruncate(self._file, end)
        if end == 0 and self._format.header:
            self.append(self._format.header)

    def drop_errors(self) -> None:
        """Replace the file atomically with one that has only the successes."""
        replacement_path = self._path.with_name(f"{self._path.name}.rewriting")
        try:
            # Locked before it is renamed, so that no other run can lock it in between.
            replacement = _open_locked(replacement_path)
            os.ftruncate(replacement, 0)
            with os.fdopen(os.dup(replacement), "ab") as new:
                new.writelines(content for content, record in self._contents() if record is None or record.code is None)
            os.fchmod(replacement, stat.S_IMODE(os.fstat(self._file).st_mode))
            os.fsync(replacement)
            replacement_path.replace(self._path)
        except OSError as error:
            raise UsageError(f"cannot write {replacement_path}: {error.strerror}") from None
        os.close(self._file)
        self._file = replacement
        self._sync_directory()

    def append(self, content: bytes) -> None:
        """Append whole lines, and sync if due.

        Raise Stopped if they cannot be written, as on a full disk; the next run truncates an incomplete line.
        """
        self._unsynced = True
        try:
            # Usually one call; a disk that is filling up, or a kill, may write only a part.
            while content:
                content = content[os.write(self._file, content) :]
        except OSError as error:
            raise Stopped(f"cannot write {self._path}: {error.strerror}") from None
        self.sync_if_due()

    def sync_if_due(self) -> None:
        """Flush written lines to disk, and check the path, if the last flush was at least `SYNC_EVERY_S` ago."""
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_EVERY_S:
            self._sync()
            self.check()

    def check(self) -> None:
        """Raise OutputLost if the open file is no longer the one at its path."""
        with suppress(OSError):
            if os.path.samestat(self._given_path.stat(), os.fstat(self._file)):
                return
        raise OutputLost(
            f"{self._given_path} was removed, renamed or replaced during the run; its lines are in the file that was "
            "renamed, or lost with the one that was removed. Put it back to resume, or the same command starts again"
        )

    def remove_if_empty(self) -> None:
        """Remove the file, which stays open and locked, unless it has content."""
        if os.fstat(self._file).st_size == 0:
            self._path.unlink(missing_ok=True)

    def _sync(self) -> None:
        # Not every file system supports it.
        with suppress(OSError):
            getattr(os, "fdatasync", os.fsync)(self._file)  # macOS has only fsync
        self._synced_at, self._unsynced = time.monotonic(), False

    def _sync_directory(self) -> None:
        # For a new or renamed file. Not every file system supports it.
        with suppress(OSError):
            directory = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _contents(self) -> Iterator[tuple[bytes, OutputRecord | None]]:
        """Yield the header with None, then the bytes and the record of each response, up to an incomplete one."""
        header = self._format.header
        with os.fdopen(os.dup(self._file), "rb") as file:
            file.seek(0)
            beginning = file.read(len(header))
            if beginning != header:
                if not header.startswith(beginning):
                    raise self._not_output(1)
                return
            yield beginning, None
            try:
                yield from self._format.read(file)
            except ForeignContent as error:
                raise self._not_output(error.line) from None

    def _not_output(self, line: int) -> UsageError:
        kind = f"the output of a batch with --format {self._format.name}"
        return UsageError(f"line {line} of {self._path} is not {kind}; pass another OUT, or remove this file")


class OutputFiles(AbstractContextManager["OutputFiles"]):
    """OUT and the errors file, open and locked; a context manager that closes them.

    `errors_path` is the errors file, or None if errors are lines of OUT. After the run it exists if there are errors.
    """

    def __init__(self, target: Path, output_format: OutputFormat) -> None:
        """Open and lock the files, as `Journal`."""
        self.errors_path = None if output_format.has_errors else target.with_name(f"{target.name}.errors.jsonl")
        with ExitStack() as stack:
            self._out = self._errors = stack.enter_context(Journal(target, output_format))
            if self.errors_path is not None:
                self._errors = stack.enter_context(Journal(self.errors_path))
                stack.callback(self._errors.remove_if_empty)
            self._open = stack.pop_all()

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def recover(self, on_record: Callable[[OutputRecord], None], *, drops_errors: bool) -> None:
        """Recover both files, as `Journal`. `drops_errors` removes errors instead of calling back."""

        def add(record: OutputRecord) -> None:
            if record.code is None or not drops_errors:
                on_record(record)

        self._out.recover(add)
        if self._errors is not self._out:
            self._errors.recover(add)
        if drops_errors:
            self._errors.drop_errors()

    def append(self, line: OutputLine) -> None:
        """Append what a response adds to OUT, or an error, as `Journal`."""
        (self._out if line.code is None else self._errors).append(line.content)

    def sync_if_due(self) -> None:
        self._out.sync_if_due()
        self._errors.sync_if_due()

    def check(self) -> None:
        self._out.check()
        self._errors.check()


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
                raise UsageError(
                    f"another run is writing {path}; wait until it finishes, or pass another OUT"
                ) from None
            raise UsageError(f"cannot lock {path}: {error.strerror}") from None
        # The path may have been replaced between open and lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), status):
                return file
        os.close(file)
