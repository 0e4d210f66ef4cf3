"""Ctrl-C while a stream is read."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sostenuto import Stream


@contextmanager
def closed_by_ctrl_c(stream: Stream) -> Iterator[None]:
    """Close the stream on Ctrl-C, so that its text so far can be kept; another Ctrl-C interrupts at once.

    An exception raised within a read sometimes left the connection open and the server generating. And a Python handler
    runs only when the main thread executes Python code again, which it does not do for a signal that comes just before
    it begins to wait for bytes. So the signal wakes another thread, by a socket.

    Raises:
        KeyboardInterrupt: Ctrl-C closed the stream.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a script
        with stream:
            yield
        return
    signals, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    interrupted = threading.Event()

    def wait_for_ctrl_c() -> None:
        while number := signals.recv(1):
            if number[0] == signal.SIGINT:
                interrupted.set()
                stream.close()

    thread = threading.Thread(target=wait_for_ctrl_c)
    presses = count(1)

    def interrupt(*_: object) -> None:
        if next(presses) > 1:  # the program may be blocked by the reader of its output
            raise KeyboardInterrupt

    previous_handler = signal.signal(signal.SIGINT, interrupt)
    previous_fd = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        wakeup.close()
        thread.join()
        signals.close()
        signal.signal(signal.SIGINT, previous_handler)
        stream.close()
    if interrupted.is_set():
        raise KeyboardInterrupt
