"""Events that interrupt waits. Knows threads. Does not know requests or streams."""

from __future__ import annotations

import threading


class LinkedEvent:
    """A `threading.Event` that is also set when its parent is set.

    The wait before a retry is a wait for this event, so that closing a client or a stream interrupts it at once.
    """

    def __init__(self, parent: LinkedEvent | None = None) -> None:
        self._parent = parent
        # Shared with all ancestors, so that a waiter wakes when a parent is set. Its lock is reentrant, because a
        # signal handler or the garbage collector may set an event in a thread that holds it.
        self._changed: threading.Condition = parent._changed if parent else threading.Condition()
        self._is_set = False

    def is_set(self) -> bool:
        """Return whether the event or one of its ancestors is set."""
        return self._is_set or (self._parent is not None and self._parent.is_set())

    def set(self) -> None:
        """Set the event permanently and wake all waiters."""
        with self._changed:
            self._is_set = True
            self._changed.notify_all()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the event is set or the timeout expires; return whether it is set."""
        with self._changed:
            return self._changed.wait_for(self.is_set, timeout_s)
