"""Events that waits end with. It knows neither requests nor streams."""

from __future__ import annotations

import threading


class LinkedEvent:
    """A `threading.Event` that is also set as soon as its parent is.

    A wait before another attempt waits for it, so that closing a client or a stream ends the wait at once.
    """

    def __init__(self, parent: LinkedEvent | None = None) -> None:
        """Begin unset."""
        self._parent = parent
        # One for the whole family: who waits for a child hears of its parents. Its lock is reentrant, as a signal
        # handler or the garbage collector may set an event in a thread that holds it.
        self._changed: threading.Condition = parent._changed if parent else threading.Condition()
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether it, or one of its parents, was set."""
        return self._is_set or (self._parent is not None and self._parent.is_set())

    def set(self) -> None:
        """Set it for good, and wake those that wait."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is set, or the time is over; return whether it is set."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)
