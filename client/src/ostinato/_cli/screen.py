"""What is shown and how: what a terminal must not run, whether there are colours, tables of any width."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console

# What moves the cursor, changes colours, writes titles or reorders a line; a tab and a line's end are harmless.
_DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BREAKS = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
GAP = 2  # spaces between two columns


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the program; rich would end with another exit code."""
        raise BrokenPipeError


def visible(text: str) -> str:
    """Return a text whose control characters are written out, as JSON would write them."""
    return _DANGEROUS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def on_one_line(text: str) -> str:
    """Return a text as a cell of a table shows it."""
    return visible("".join(_BREAKS.get(character, character) for character in text))


def console() -> Console:
    """Return standard output as rich sees it. What is no terminal has no width."""
    made = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not made.is_terminal:
        made.width = sys.maxsize
    return made


def has_colours(screen: Console) -> bool:
    """Whether shades can tell anything."""
    return screen.color_system is not None and not screen.no_color


def say(line: str, *, dim: bool = False) -> None:
    """Write a line for a person, to standard error."""
    _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(
        visible(line), style="dim" if dim else ""
    )


def write_text(text: str) -> None:
    """Write a text to standard output at once: as it is, or harmless where a terminal shows it."""
    if sys.stdout.isatty():
        sys.stdout.write(visible(text))
        sys.stdout.flush()
        return
    output = sys.stdout.buffer
    output.write(text.encode("utf-8", "replace"))
    output.flush()


def write_json(value: Any) -> None:
    """Write a JSON value on a line of its own."""
    write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """Print rows in columns, or each as lines of its own where the columns don't fit.

    Args:
        headings: One for each column.
        rows: Their cells.
        numbers: The headings of columns whose cells stand at their right.
    """
    screen = console()
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows)]
    if sum(widths) + GAP * (len(widths) - 1) > screen.width:
        return _print_records(screen, headings, rows)
    for row in (headings, *rows):
        cells = [
            " " * (width - cell_len(cell)) + cell if heading in numbers else cell + " " * (width - cell_len(cell))
            for cell, width, heading in zip(row, widths, headings)
        ]
        screen.print((" " * GAP).join(cells).rstrip(), style="bold" if row is headings else "")
    return None


def _print_records(screen: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            screen.print()
        for heading, cell in zip(headings, row):
            screen.print(f"{heading}: {cell}")
