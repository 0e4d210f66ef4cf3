"""Errors that end a run early, with their exit codes, and those of a line or a file.

BatchError
├── UsageError    2  IN, OUT or an option cannot be used
├── Stopped       3  the gateway is unavailable, refuses the key or is not a gateway; the same command resumes
└── OutputLost    3  OUT was removed, renamed or replaced during the run

LineError is not among them: it becomes an error in OUT or in the errors file. Nor is ForeignContent, of which the
journal makes a UsageError.
"""

from __future__ import annotations

from typing import ClassVar


class BatchError(Exception):
    """An error that ends the run; its message is one line."""

    exit_code: ClassVar[int] = 3


class UsageError(BatchError):
    """IN, OUT or an option cannot be used."""

    exit_code = 2


class Stopped(BatchError):
    """No further line would get a response."""


class OutputLost(BatchError):
    """OUT is not at its path any more: what was written is in a removed or renamed file."""


class LineError(Exception):
    """A line of IN that gets no HTTP response: it is invalid and never sent, or its request failed.

    Attributes:
        code: Machine-readable code.
        custom_id: The custom_id of the line, or None if it has none.
    """

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.custom_id = code, custom_id


class ForeignContent(Exception):
    """The content of a file that no batch wrote in this format, at a line from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}")
        self.line = line
