"""A progress bar: one rewritten line in a terminal, and a new line at intervals elsewhere."""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager
from time import monotonic
from typing import TextIO

WIDTH = 24  # of the bar, in characters
TERMINAL_INTERVAL_S, FILE_INTERVAL_S = 0.2, 30.0


class Progress(AbstractContextManager["Progress"]):
    """A thread-safe progress bar. As a context manager it writes a last line on exit, and nothing after it."""

    def __init__(self, total: int | None, *, shown: bool, file: TextIO | None = None) -> None:
        self._total, self._shown, self._file = total, shown, file or sys.stderr
        self._terminal = self._file.isatty()
        self._lock = threading.Lock()
        self._begun_at = self._written_at = monotonic()
        self._done = 0

    def advance(self) -> None:
        """Count one finished item."""
        with self._lock:
            self._done += 1
            interval_s = TERMINAL_INTERVAL_S if self._terminal else FILE_INTERVAL_S
            if monotonic() - self._written_at >= interval_s:
                self._write("" if self._terminal else "\n")

    def __exit__(self, *exception: object) -> None:
        """Write the last line."""
        with self._lock:
            self._write("\n")
            self._shown = False

    def _write(self, end: str) -> None:
        self._written_at = monotonic()
        if not self._shown:
            return
        start = "\r\x1b[K" if self._terminal else ""
        self._file.write(start + self._line() + end)
        self._file.flush()

    def _line(self) -> str:
        elapsed_s = monotonic() - self._begun_at
        rate = self._done / elapsed_s if elapsed_s > 0 else 0.0
        if not self._total:
            return f"{self._done} done, {rate:.3g}/s"
        filled = WIDTH * self._done // self._total
        left = f", {_clock((self._total - self._done) / rate)} left" if 0 < self._done < self._total else ""
        bar = "█" * filled + "·" * (WIDTH - filled)
        return f"{bar} {self._done}/{self._total}, {rate:.3g}/s{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
