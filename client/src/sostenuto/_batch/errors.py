"""Errors that end a run early, with their exit codes, and errors of one line or file, which do not."""

from __future__ import annotations

from typing import ClassVar


class BatchError(Exception):
    """An error that ends the run; its message is one line."""

    exit_code: ClassVar[int] = 3


class UsageError(BatchError):
    """IN, OUT or an option cannot be used."""

    exit_code = 2


class Stopped(BatchError):
    """No further line would get a response: the gateway is unavailable, refuses the key or is not a gateway."""


class OutputLost(BatchError):
    """OUT is no longer at its path: the written lines are in a removed or renamed file."""


class LineError(Exception):
    """A line of IN without an HTTP response: it is invalid and not sent, or its request failed. OUT has the error.

    Attributes:
        code: Machine-readable code.
        custom_id: The custom_id of the line, or None if it has none.
    """

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.custom_id = code, custom_id


class ForeignContent(Exception):
    """A file has content that no batch wrote in this format, at a line from 1; it becomes a UsageError."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line}")
        self.line = line
