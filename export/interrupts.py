"""Ctrl-C that is heard at once and obeyed between two steps.

Python raises `KeyboardInterrupt` anywhere, and TensorFlow does not bear that: in a finalizer it is lost with a
traceback, in the middle of tracing a second one becomes an `AssertionError` (both seen).
"""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_HEARD = b"\nstopping as soon as this step is done; Ctrl-C again: at once\n"
STOPPED_BY_SIGINT = 130


class Interrupts:
    """While this context is entered, `raise_if_interrupted` is where `KeyboardInterrupt` is raised."""

    def __init__(self) -> None:
        self._heard = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _hear(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as `signal` calls it
        # Printing is not allowed in a handler: what it interrupts may be printing.
        if self._heard:
            os._exit(STOPPED_BY_SIGINT)
        self._heard = True
        os.write(2, _HEARD)

    def raise_if_interrupted(self) -> None:
        """Raise what was heard.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed since the context was entered.
        """
        if self._heard:
            raise KeyboardInterrupt
