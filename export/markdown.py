"""Markdown code spans, code blocks and tables that stay valid for any text."""

import re
from collections.abc import Sequence

from export.terminal import visible

_BACKTICKS = re.compile("`+")


def code(text: str) -> str:
    """Format a text as a code span, valid in a table cell too."""
    shown = printable(text).replace("\n", " ")
    if not shown.strip():
        return ""
    ticks = "`" * (_longest(shown) + 1)
    # A code span that begins or ends with a backtick needs a space there; Markdown strips it.
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    # Markdown splits table cells at bars before it parses code spans.
    return f"{ticks}{space}{shown}{space}{ticks}".replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """Format a text as a fenced code block."""
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}{language}\n{printable(text)}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table; the cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def printable(text: str) -> str:
    """Replace unprintable characters, which an editor or a terminal would interpret, by dots."""
    return "\n".join(map(visible, text.expandtabs(4).split("\n")))


def _longest(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
