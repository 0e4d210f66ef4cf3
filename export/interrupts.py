"""Ctrl-C and SIGTERM: both end a command in the same way; a training run defers them to the end of its current step.

Python may raise `KeyboardInterrupt` anywhere, which TensorFlow cannot handle: in a finalizer it is lost with a
traceback; during tracing a second one becomes an `AssertionError` (both observed).
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType

_MESSAGES = {
    signal.SIGINT: b"\nstopping after this step; press Ctrl-C again to stop at once\n",
    signal.SIGTERM: b"\nSIGTERM: stopping after this step; a second one stops at once\n",
}
# The signal that was deferred, if any.
_received: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM: like Ctrl-C, except for the exit code."""


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal ended: 128 plus its number, as in shells."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


def exit_on_signals() -> None:
    """Let either signal end the process at once, except in the contexts of this module.

    As process 1 of a container it would otherwise ignore SIGTERM. At exit, TensorFlow's threads take a moment to stop;
    a second Ctrl-C would print a traceback then.
    """
    for number in _MESSAGES:
        signal.signal(number, exit_at_once)


def exit_at_once(number: int, _frame: FrameType | None) -> None:
    """End the process with the signal's exit code; for imports.

    A module being imported may catch or convert an exception (observed).
    """
    os._exit(128 + number)


def raise_interrupt(number: int, _frame: FrameType | None) -> None:
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[None]:
    """Defer both signals within the context to the next `raise_if_interrupted`; a second one ends the process."""

    def record(number: int, _frame: FrameType | None) -> None:
        # `print` is not reentrant: the handler may have interrupted another print.
        if _received:
            os._exit(128 + number)
        _received.append(number)
        os.write(2, _MESSAGES[signal.Signals(number)])

    try:
        with signal_handlers(record):
            yield
    finally:
        _received.clear()


def raise_if_interrupted() -> None:
    """Raise the `KeyboardInterrupt`, or `Terminated`, of a deferred signal."""
    if _received:
        raise_interrupt(_received[0], None)


@contextlib.contextmanager
def signal_handlers(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handle both signals with a handler within the context."""
    previous = {number: signal.signal(number, handler) for number in _MESSAGES}
    try:
        yield
    finally:
        for number, previous_handler in previous.items():
            signal.signal(number, previous_handler)
