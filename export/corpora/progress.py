"""What a person sees while a large text is gone through: a bar on a terminal, now and then a line elsewhere.

Knows how much is done. Does not know of what.
"""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

# A text of some megabytes is done before anything is shown.
QUIET_S = 3.0
LINE_EVERY_S = 30.0


class ProgressLine:
    """Tells how far something is, if it takes long."""

    def __init__(self, doing: str, total_bytes: int | None) -> None:
        """Begin.

        Args:
            doing: What is done.
            total_bytes: How much there is; None if nobody knows.
        """
        self._doing, self._total, self._done = doing, total_bytes, 0
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        on_terminal = sys.stderr.isatty()
        self._says_lines = not on_terminal
        self._bar = tqdm(
            total=total_bytes,
            desc=doing,
            unit="B",
            unit_scale=True,
            delay=QUIET_S,
            disable=not on_terminal,
            leave=False,
            dynamic_ncols=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def step(self, num_bytes: int) -> None:
        """Take note of some more."""
        self._done += num_bytes
        self._bar.update(num_bytes)
        if self._says_lines and time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            of = f" of {self._total / 1e6:,.0f}" if self._total else ""
            print(f"{self._doing}: {self._done / 1e6:,.0f}{of} MB", flush=True)
