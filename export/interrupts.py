"""Deferred Ctrl-C: the signal is recorded at once and raised between two steps.

Python raises `KeyboardInterrupt` anywhere, and TensorFlow cannot handle that: in a finalizer it is lost with a
traceback; during tracing a second one becomes an `AssertionError` (both observed).
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_MESSAGE = b"\nstopping as soon as this step is done; Ctrl-C again: at once\n"
STOPPED_BY_SIGINT = 130


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], None]]:
    """Defer Ctrl-C within the context; yield a function that raises `KeyboardInterrupt` if it was pressed."""
    is_interrupted = False

    def record(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_interrupted
        # `print` is not reentrant: the handler may have interrupted another print.
        if is_interrupted:
            os._exit(STOPPED_BY_SIGINT)
        is_interrupted = True
        os.write(2, _MESSAGE)

    def raise_if_interrupted() -> None:
        if is_interrupted:
            raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGINT, record)
    try:
        yield raise_if_interrupted
    finally:
        signal.signal(signal.SIGINT, previous_handler)
