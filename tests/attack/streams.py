"""Streams whose events are timed."""

import threading
import time

import numpy as np


class Stream(threading.Thread):
    """A stream that records the time of each event, until it is closed."""

    def __init__(self, gateway, **fields):
        super().__init__(daemon=True)
        self._gateway, self._fields = gateway, fields
        self.times, self.closed = [], threading.Event()
        self.start()

    def run(self):
        for event in self._gateway.stream(**self._fields):
            self.times.append(time.monotonic())
            if event is None or self.closed.is_set():
                return

    @property
    def runs(self):
        return bool(self.times) and self.is_alive()

    def gaps_since(self, start):
        """Return the seconds between its events from a time on."""
        return np.diff([start, *(moment for moment in self.times if moment >= start), time.monotonic()])
