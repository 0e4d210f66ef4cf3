"""Pieces of Markdown that stay what they are, whatever text is put into them."""

import re
from collections.abc import Sequence

_BACKTICKS = re.compile("`+")


def code(text: str) -> str:
    """Return a text as code within a line, also within a table."""
    shown = seen(text).replace("\n", " ")
    if not shown.strip():
        return ""
    ticks = "`" * (_longest(shown) + 1)
    # A code span that begins or ends with a backtick needs a space there; Markdown takes it away again.
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    # Tables are cut at bars before code is looked for.
    return f"{ticks}{space}{shown}{space}{ticks}".replace("|", "\\|")


def fenced(text: str, language: str = "") -> str:
    """Return a text as a block of code."""
    fence = "`" * max(3, _longest(text) + 1)
    return f"{fence}{language}\n{seen(text)}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def seen(text: str) -> str:
    """Put a dot in the place of what no page shows, and what an editor or a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text.expandtabs(4))


def _longest(text: str) -> int:
    return max(map(len, _BACKTICKS.findall(text)), default=0)
