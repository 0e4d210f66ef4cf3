"""Deferred Ctrl-C: the signal is recorded at once and raised between two steps.

Python raises `KeyboardInterrupt` anywhere, and TensorFlow cannot handle that: in a finalizer it is lost with a
traceback; during tracing a second one becomes an `AssertionError` (both observed).
"""

import os
import signal
from types import FrameType
from typing import Any, Self

_MESSAGE = b"\nstopping as soon as this step is done; Ctrl-C again: at once\n"
STOPPED_BY_SIGINT = 130


class Interrupts:
    """Context manager that defers `KeyboardInterrupt` to the next call of `raise_if_interrupted`."""

    def __init__(self) -> None:
        self._is_interrupted = False
        self._previous_handler: Any = None

    def __enter__(self) -> Self:
        self._previous_handler = signal.signal(signal.SIGINT, self._record)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._previous_handler)

    def _record(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as `signal` calls it
        # `print` is not reentrant: the handler may have interrupted another print.
        if self._is_interrupted:
            os._exit(STOPPED_BY_SIGINT)
        self._is_interrupted = True
        os.write(2, _MESSAGE)

    def raise_if_interrupted(self) -> None:
        """Raise the recorded interrupt.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed since the context was entered.
        """
        if self._is_interrupted:
            raise KeyboardInterrupt
