"""What ends a run before its last line, with its exit code.

BatchError
├── Unusable      2  IN, OUT or an option cannot be used
└── Stopped       3  the gateway is gone, lets nobody in, or is none; the same command goes on

WrongLine is not among them: it becomes a line of OUT.
"""

from typing import ClassVar


class BatchError(Exception):
    """The run ends here, with this line."""

    exit_code: ClassVar[int]


class UsageError(BatchError):
    """IN, OUT or an option cannot be used."""

    exit_code = 2


class Stopped(BatchError):
    """No further line would be answered."""

    exit_code = 3


class WrongLine(Exception):
    """A line of IN that is never sent.

    Attributes:
        code: A word that programs can compare.
        custom_id: The line's own, or None if it has none.
    """

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.custom_id = code, custom_id
