"""Progress output for large texts: a progress bar on a terminal, occasional lines elsewhere.

Knows bytes done and in total. Does not know the task.
"""

import contextlib
import sys
import time

from tqdm import tqdm

# A text of a few megabytes is finished before anything is shown.
QUIET_S = 3.0
LINE_EVERY_S = 30.0


class ProgressLine(contextlib.AbstractContextManager):
    """A progress bar or log lines for a task, shown only if it takes long."""

    def __init__(self, doing: str, total_bytes: int | None) -> None:
        self._doing, self._total, self._done = doing, total_bytes, 0
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        self._bar = tqdm(
            total=total_bytes,
            desc=doing,
            unit="B",
            unit_scale=True,
            delay=QUIET_S,
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
        )

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def step(self, num_bytes: int) -> None:
        """Advance by a number of bytes."""
        self._done += num_bytes
        self._bar.update(num_bytes)
        if self._bar.disable and time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            of = f" of {self._total / 1e6:,.0f}" if self._total else ""
            print(f"{self._doing}: {self._done / 1e6:,.0f}{of} MB", flush=True)
