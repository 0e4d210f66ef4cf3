"""Terminal output: escaping of control characters, colour support, tables."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console

# Characters that move the cursor, change colours, write titles or reorder a line; tab and newline are harmless.
_DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_BREAKS = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
GAP = 2  # spaces between two columns


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error, which the program handles; rich would exit with another exit code."""
        raise BrokenPipeError


def visible(text: str) -> str:
    """Escape the control characters of a text as JSON does."""
    return _DANGEROUS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def on_one_line(text: str) -> str:
    """Escape control characters and line breaks, for a table cell."""
    return visible("".join(_BREAKS.get(character, character) for character in text))


def console() -> Console:
    """Return a rich console for standard output, with unlimited width unless it is a terminal."""
    screen = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not screen.is_terminal:
        screen.width = sys.maxsize
    return screen


def say(line: str, *, dim: bool = False) -> None:
    """Write a message for the user to standard error."""
    _Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(
        visible(line), style="dim" if dim else ""
    )


def write_text(text: str) -> None:
    """Write a text to standard output and flush: unchanged, or with control characters escaped on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(visible(text))
        sys.stdout.flush()
        return
    output = sys.stdout.buffer
    output.write(text.encode("utf-8", "replace"))
    output.flush()


def write_json(value: Any) -> None:
    """Write a JSON value as one line."""
    write_text(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = ()) -> None:
    """Print a table, or one record per row if the columns do not fit the terminal's width.

    Columns whose heading is one of the numbers are right-aligned.
    """
    screen = console()
    widths = [max(map(cell_len, column)) for column in zip(headings, *rows, strict=False)]
    if sum(widths) + GAP * (len(widths) - 1) > screen.width:
        return _print_records(screen, headings, rows)
    for row in (headings, *rows):
        cells = [
            " " * (width - cell_len(cell)) + cell if heading in numbers else cell + " " * (width - cell_len(cell))
            for cell, width, heading in zip(row, widths, headings, strict=False)
        ]
        screen.print((" " * GAP).join(cells).rstrip(), style="bold" if row is headings else "")
    return None


def _print_records(screen: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for number, row in enumerate(rows):
        if number:
            screen.print()
        for heading, cell in zip(headings, row, strict=False):
            screen.print(f"{heading}: {cell}")
