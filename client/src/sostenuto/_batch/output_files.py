"""OUT, and beside it the errors file of a format that has no errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from sostenuto._batch.formats import OutputFormat
from sostenuto._batch.journal import Journal
from sostenuto._batch.output_record import OutputLine, OutputRecord


class OutputFiles(AbstractContextManager["OutputFiles"]):
    """OUT and the errors file, open and locked; a context manager that closes them.

    Attributes:
        errors_path: The errors file; None if errors are lines of OUT. It exists after the run if there are errors.
    """

    def __init__(self, target: Path, output_format: OutputFormat) -> None:
        """Open and lock the files; create those that do not exist.

        Raises:
            UsageError: one cannot be opened, is not a regular file, or is locked by another run.
        """
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
        """Call `on_record` with every existing record, and truncate what a killed run left incomplete.

        `drops_errors` removes errors instead, atomically.

        Raises:
            UsageError: a file has content that no batch wrote in its format.
        """

        def add(record: OutputRecord) -> None:
            if record.code is None or not drops_errors:
                on_record(record)

        self._out.recover(add)
        if self._errors is not self._out:
            self._errors.recover(add)
        if drops_errors:
            self._errors.drop_errors()

    def append(self, line: OutputLine) -> None:
        """Append what a response adds to OUT, or an error.

        Raises:
            Stopped: it cannot be written, as on a full disk.
            OutputLost: it is not at its path any more.
        """
        (self._out if line.code is None else self._errors).append(line.content)

    def sync_if_due(self) -> None:
        """Flush what was written to disk, and check the paths, if the last flush was at least a second ago.

        Raises:
            OutputLost: a file is not at its path any more.
        """
        self._out.sync_if_due()
        self._errors.sync_if_due()

    def check(self) -> None:
        """Check that the files that were written are those at their paths; raise as `sync_if_due`."""
        self._out.check()
        self._errors.check()
