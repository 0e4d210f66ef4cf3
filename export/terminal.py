"""Terminal output: lines above a progress bar, text tables, samples and human-readable numbers."""

import contextlib
import json
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tqdm import tqdm

NOTHING = "–"
_GAP = "  "
# A text of a few megabytes is done before its progress is shown.
QUIET_S, LINE_EVERY_S = 3.0, 30.0


def echo(line: str) -> None:
    """Print a line and flush it, above a progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


class ProgressLine(contextlib.AbstractContextManager):
    """Progress of a long task on a large text: a bar on a terminal, occasional lines elsewhere."""

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
        self._done += num_bytes
        self._bar.update(num_bytes)
        if self._bar.disable and time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + LINE_EVERY_S
            of = f" of {self._total / 1e6:,.0f}" if self._total else ""
            print(f"{self._doing}: {self._done / 1e6:,.0f}{of} MB", flush=True)


def wrap_sample(sample: str) -> str:
    """Indent a sample and wrap its lines; control characters become dots."""
    width = max(1, min(100, shutil.get_terminal_size().columns - 5))
    lines = [visible(line.expandtabs(4)) for line in sample.splitlines()]
    return "\n".join(f"    {part}" for line in lines for part in textwrap.wrap(line, width) or [""])


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    right: bool = False  # whether its cells are right-aligned, as numbers should be
    rank: int = 0  # if the table is too wide, columns of the highest rank are dropped first; rank 0 is never dropped


def text_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield the lines of a table; a last line names the columns that were dropped.

    The last cell of a short row spans all missing columns. Without a width, lines have any length.
    """
    kept, widths = list[int](), _widths(columns, rows)
    for i in sorted(range(len(columns)), key=lambda i: columns[i].rank):
        total = sum(widths[j] for j in (*kept, i)) + len(_GAP) * len(kept)
        if width is None or not columns[i].rank or total <= width:
            kept = sorted([*kept, i])
    for row in ([column.title for column in columns], *rows):
        cells = []
        for i in kept:
            if len(row) < len(columns) and i >= len(row) - 1:
                cells.append(row[-1])
                break
            cells.append(row[i].rjust(widths[i]) if columns[i].right else row[i].ljust(widths[i]))
        yield _GAP.join(cells).rstrip()
    dropped = [columns[i].title.partition(" (")[0].lower() for i in range(len(columns)) if i not in kept]
    if dropped:
        yield f"(not enough room for: {', '.join(dropped)})"


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(len(cell) for cell in (column.title, *(row[i] for row in rows if i < len(row) - (len(row) < len(columns)))))
        for i, column in enumerate(columns)
    ]


def fraction_bar(left: str) -> Any:
    """Return a progress bar on stderr that counts to 1, hidden without a terminal; `left` is a field of tqdm's format.

    It counts the completed fraction, not steps, as a time limit may determine it.
    """
    return tqdm(
        total=1.0,
        bar_format=f"{{desc}} {{percentage:3.0f}}%|{{bar:10}}| {left} left{{postfix}}",
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
        miniters=0,
        smoothing=0,
    )


def terminal_width() -> int | None:
    """Return the width of the terminal in characters; None if standard output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_number(value: float | None, form: str) -> str:
    """Format a number by a format spec; None becomes a dash."""
    return NOTHING if value is None else format(value, form)


def file_size(num_bytes: int) -> str:
    """Format a size, such as 12.3 MB."""
    if num_bytes < 1_000_000:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1_000_000_000 else f"{num_bytes / 1e9:,.2f} GB"


def utc_time(seconds: int) -> str:
    """Format a Unix time in UTC; a dash if it is out of range."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return NOTHING


def visible(text: Any) -> str:
    """Format a value in one line; control characters, which a terminal would interpret, become dots."""
    return "".join(c if c.isprintable() else "·" for c in str(text))


def to_json(value: Any) -> str:
    """Format a value as JSON; a float that JSON cannot represent, such as an infinite loss, becomes null."""
    finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
    return json.dumps(finite, indent=1, ensure_ascii=False)
