"""HTML of the report's page: escaped text, tables, and the key of a plot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any

from sostenuto._report.display import NONE
from sostenuto._results import shortened

MAX_SHOWN = 300  # characters of a record
# Control characters, and those that have no width or reorder a line.
_INVISIBLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# The sets of a report, by their key: the name and the class in the style sheet.
SETS = {"generated": ("generated", "generated"), "held_out": ("held-out", "held")}
TRAINING = ("training", "training")


def subjects(report: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, class and report of each set that has one."""
    return [(*SETS[key], report[key]) for key in SETS if report[key] is not None]


def text(value: str, limit: int = MAX_SHOWN) -> str:
    """Return text as HTML, with control characters escaped as in JSON."""
    return escape(_INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", shortened(value, limit)))


def section(title: str, *parts: str) -> str:
    return f"<section><h2>{title}</h2>{''.join(parts)}</section>"


def soft(content: str, *, small: bool = False) -> str:
    return f"<p class='soft{' small' if small else ''}'>{content}</p>"


def figure(plot: str) -> str:
    return f"<figure>{plot}</figure>"


def panel(title: str, *parts: str) -> str:
    """Return one of several panels that lie side by side."""
    return f"<div class='panel'><h3>{title}</h3>{''.join(parts)}</div>"


def panels(parts: Iterable[str]) -> str:
    return f"<div class='panels'>{''.join(parts)}</div>"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """Return a table of cells that are HTML; columns whose heading begins with # are right-aligned."""
    head = "".join(
        f"<th scope='col' class='number'>{name[1:]}</th>" if name.startswith("#") else f"<th scope='col'>{name}</th>"
        for name in headings
    )
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    title = f"<caption>{caption}</caption>" if caption else ""
    return f"<div class='scroll'><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def cell(content: str) -> str:
    return f"<td>{content}</td>"


def number(content: str) -> str:
    return f"<td class='number'>{content}</td>"


def record_cell(record: str) -> str:
    return f"<td class='record'>{text(record)}</td>"


def compared_cells(own: str, other: str) -> tuple[str, str]:
    """Return the cells of two records, with what differs marked."""
    own, other = own[:MAX_SHOWN], other[:MAX_SHOWN]
    marked: tuple[list[str], list[str]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, own, other, autojunk=False).get_opcodes():
        for target, part in zip(marked, (text(own[a:b]), text(other[c:d])), strict=True):
            target.append(part if kind == "equal" or not part else f"<mark>{part}</mark>")
    first, second = (f"<td class='record'>{''.join(parts)}</td>" for parts in marked)
    return first, second


def key_of(sets: Iterable[tuple[str, str]]) -> str:
    """Return the key of a plot: name and class of each set."""
    size = "width='12' height='12'"
    entries = "".join(
        f"<li><svg {size} aria-hidden='true'><rect class='{css} bar' {size} rx='2'/></svg>{name}</li>"
        for name, css in sets
    )
    return f"<ul class='key'>{entries}</ul>"


def share_of(share: float) -> str:
    """Return a share in percent, with three digits."""
    return f"{share:.1%}" if share >= 0.1 else f"{share:.2%}" if share >= 0.01 else f"{share:.3%}"


def decimal(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"
