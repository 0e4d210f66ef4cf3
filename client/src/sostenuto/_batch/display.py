"""Progress on standard error: a progress bar in a terminal, else a line at intervals; at the end a summary."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from sostenuto._batch.output_record import OutputLine

LINE_EVERY_S, BAR_EVERY_S = 30.0, 0.2
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Display:
    """The progress display.

    `errors` counts errors by code, including those of earlier runs; `errors_path` is their file, if it is not OUT.
    """

    def __init__(self, num_lines: int, num_done: int, errors: Counter[str], errors_path: Path | None = None) -> None:
        self._num_lines, self._num_before, self._errors = num_lines, num_done, errors
        self._errors_path = errors_path
        self._num_new = self._tokens = 0
        self._started_at = self._shown_at = time.monotonic()
        self._bar = tqdm(
            total=num_lines,
            initial=num_done,
            unit=" lines",
            file=sys.stderr,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format=BAR,
        )

    def add(self, line: OutputLine) -> None:
        """Count a line of OUT."""
        self._num_new += 1
        self._tokens += line.tokens
        if line.code is not None:
            self._errors[line.code] += 1

    def show(self, trouble: str | None) -> None:
        """Show progress, and the trouble that the run waits for, if an update is due."""
        now, every_s = time.monotonic(), LINE_EVERY_S if self._bar.disable else BAR_EVERY_S
        if now - self._shown_at < every_s:
            return
        self._shown_at = now
        speed = f"{self._tokens / max(now - self._started_at, 1e-3):,.0f} tokens/s"
        words = f"{speed}, {self._errors.total():,} errors" + (f", waiting: {trouble}" if trouble else "")
        num_done = self._num_before + self._num_new
        if self._bar.disable:
            print(f"{num_done:,} of {self._num_lines:,} lines, {words}", file=sys.stderr)
        else:
            self._bar.n = num_done
            self._bar.set_postfix_str(words)

    def close(self) -> None:
        """Close the progress bar and print the summary."""
        self._bar.n = self._num_before + self._num_new
        self._bar.refresh()
        self._bar.close()
        seconds = max(time.monotonic() - self._started_at, 1e-3)
        errors = ", ".join(f"{count:,} {code}" for code, count in self._errors.most_common())
        errors += f", in {self._errors_path}" if errors and self._errors_path else ""
        before = f", {self._num_before:,} in earlier runs" if self._num_before else ""
        speed = f"{self._num_new / seconds:,.1f} lines/s, {self._tokens / seconds:,.0f} tokens/s"
        completed = f"{self._num_new:,} completed in {seconds:.1f} s ({speed})" if self._num_new else "none completed"
        print(f"{self._num_lines:,} lines: {completed}{before}; errors: {errors or 'none'}", file=sys.stderr)
