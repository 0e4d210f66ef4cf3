"""Plots as inline SVG. Colors are classes of the page's style sheet, so that they follow its dark mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sostenuto._report.markup import text

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 24  # margins for labels
_MAX_LABELS, _CHARACTER = 11, 7  # labels of an axis; width of a character of them
# Darkest color of a cell: a number on it stays legible in both themes.
_MAX_OPACITY = 0.55
BAR, ROW, NAME_WIDTH = 13, 30, 150


@dataclass(frozen=True)
class Series:
    """A histogram of one set: its name, its class in the style sheet and the share of each bin."""

    name: str
    css: str
    shares: Sequence[float]

    @classmethod
    def of(cls, name: str, css: str, counts: Sequence[float]) -> Series:
        """Return the shares of counts."""
        total = sum(counts) or 1
        return cls(name, css, [count / total for count in counts])


def histogram(
    title: str, series: Sequence[Series], labels: Sequence[str], *, width: int = WIDTH, height: int = HEIGHT
) -> str:
    """Return a histogram of several sets: the last one filled, the others as steps. The title is for screen readers."""
    top_share = max((share for each in series for share in each.shares), default=0.0) or 1.0
    plot_width, plot_height = width - LEFT - RIGHT, height - TOP - BOTTOM
    step = plot_width / max(1, len(labels))

    def y(share: float) -> float:
        return TOP + plot_height * (1 - share / top_share)

    parts = [_grid(top_share, width, y)]
    for each in reversed(series):
        points = [(LEFT + step * (i + side), y(share)) for i, share in enumerate(each.shares) for side in (0, 1)]
        path = "L".join(f"{x:.1f} {level:.1f}" for x, level in points)
        is_filled = each is series[-1]
        ends = f"L{LEFT + plot_width:.1f} {y(0):.1f}L{LEFT} {y(0):.1f}Z" if is_filled else ""
        parts.append(f'<path class="{each.css} {"area" if is_filled else "line"}" d="M{path}{ends}"/>')
    parts += _bin_titles(series, labels, step, height)
    num_fitting = plot_width // (_CHARACTER * (2 + max(map(len, labels), default=0)))
    every = -(-len(labels) // max(1, min(_MAX_LABELS, num_fitting)))
    for i in range(0, len(labels), every):
        parts.append(
            f'<text x="{LEFT + step * (i + 0.5):.1f}" y="{height - 8}" class="tick middle">{text(labels[i])}</text>'
        )
    return _svg(title, width, height, parts)


def _bin_titles(series: Sequence[Series], labels: Sequence[str], step: float, height: int) -> list[str]:
    """Return invisible columns that show the numbers of a bin when the pointer is over it."""
    found = []
    for i, label in enumerate(labels):
        shown = "\n".join(f"{text(each.name)}: {each.shares[i]:.2%}" for each in series)
        size = f'x="{LEFT + step * i:.1f}" y="{TOP}" width="{step:.1f}" height="{height - TOP - BOTTOM}"'
        found.append(f'<rect class="over" {size}><title>{text(label)}\n{shown}</title></rect>')
    return found


def _grid(top_share: float, width: int, y: Callable[[float], float]) -> str:
    lines = []
    for part in (0.0, 0.5, 1.0):
        level = y(part * top_share)
        shown = f"{part * top_share:.0%}" if top_share >= 0.05 else f"{part * top_share:.1%}"
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        lines.append(f'<text class="tick end" x="{LEFT - 6}" y="{level + 4:.1f}">{shown}</text>')
    return "".join(lines)


def bars(
    title: str, rows: Sequence[tuple[str, Sequence[tuple[str, str, float | None, str]]]], *, width: int = WIDTH
) -> str:
    """Return groups of horizontal bars; the longest one has the full length.

    A row has a name, and for each bar the set's name, its class, its value and how that is shown.
    """
    largest = max((value or 0.0 for _, row in rows for _, _, value, _ in row), default=0.0) or 1.0
    num_bars = max((len(row) for _, row in rows), default=1)
    pitch = BAR * num_bars + 12
    room = width - NAME_WIDTH - 70
    parts = []
    for i, (name, row) in enumerate(rows):
        middle = pitch * i + 4 + BAR * num_bars / 2
        parts.append(f'<text class="name end" x="{NAME_WIDTH - 8}" y="{middle + 4:.1f}">{text(name, 22)}</text>')
        for j, (who, css, value, label) in enumerate(row):
            level, length = pitch * i + 4 + BAR * j, room * (value or 0.0) / largest
            over = f"<title>{text(name)}, {text(who)}: {text(label)}</title>"
            size = f'x="{NAME_WIDTH}" y="{level:.1f}" width="{max(length, 1):.1f}" height="{BAR - 1}"'
            parts.append(f'<rect class="{css} bar" {size}>{over}</rect>')
            parts.append(
                f'<text class="tick" x="{NAME_WIDTH + length + 6:.1f}" y="{level + BAR - 1:.1f}">{text(label)}</text>'
            )
    return _svg(title, width, max(1, pitch * len(rows)), parts)


def scale(title: str, marks: Sequence[tuple[str, str, float, float]]) -> str:
    """Return a scale from 0.4 to 1 with marks: a set's name, its class, its value and its standard deviation."""
    width, low, high = WIDTH, 0.4, 1.0
    room = width - 2 * NAME_WIDTH + 40

    def x(value: float) -> float:
        return NAME_WIDTH + room * (min(high, max(low, value)) - low) / (high - low)

    height = ROW * len(marks) + 30
    parts = [f'<line class="chance" x1="{x(0.5):.1f}" x2="{x(0.5):.1f}" y1="4" y2="{height - 22}"/>']
    for value in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        parts.append(f'<text class="tick middle" x="{x(value):.1f}" y="{height - 6}">{value:.1f}</text>')
    for i, (name, css, value, spread) in enumerate(marks):
        level = ROW * i + 16
        parts.append(f'<line class="grid" x1="{NAME_WIDTH}" x2="{NAME_WIDTH + room}" y1="{level}" y2="{level}"/>')
        parts.append(f'<text class="name end" x="{NAME_WIDTH - 12}" y="{level + 4}">{text(name)}</text>')
        ends = f'x1="{x(value - spread):.1f}" x2="{x(value + spread):.1f}" y1="{level}" y2="{level}"'
        parts.append(f'<line class="{css} spread" {ends}/>')
        parts.append(f'<circle class="{css} dot" cx="{x(value):.1f}" cy="{level}" r="6"/>')
        parts.append(
            f'<text class="name" x="{NAME_WIDTH + room + 12}" y="{level + 4}">{value:.3f} ± {spread:.3f}</text>'
        )
    return _svg(title, width, height, parts)


def matrix(title: str, names: Sequence[str], values: dict[tuple[int, int], float | None]) -> str:
    """Return a symmetric matrix of correlations as colored cells; positive and negative ones have different colors."""
    cell, room, overhang = 34, 90, 40
    size = room + cell * len(names)
    parts = []
    for i, name in enumerate(names):
        shown, level = text(name, 12), room + cell * (i + 0.5)
        parts.append(f'<text class="tick end" x="{room - 6}" y="{level + 4}">{shown}</text>')
        parts.append(f'<text class="tick" transform="translate({level + 4} {room - 6}) rotate(-60)">{shown}</text>')
    for (i, j), value in values.items():
        for row, column in {(i, j), (j, i)}:
            place = f'x="{room + cell * column}" y="{room + cell * row}"'
            shown = "–" if value is None else f"{value:.2f}"
            sign, strength = "minus" if (value or 0) < 0 else "plus", _MAX_OPACITY * min(1.0, abs(value or 0.0))
            over = f"<title>{text(names[row])}, {text(names[column])}: {shown}</title>"
            square = f'{place} width="{cell - 2}" height="{cell - 2}"'
            parts.append(f'<rect class="cell" {square}/>')
            parts.append(f'<rect class="{sign}" {square} fill-opacity="{strength:.2f}">{over}</rect>')
            middle = f'x="{room + cell * column + cell / 2 - 1}" y="{room + cell * row + cell / 2 + 3}"'
            parts.append(f'<text class="value middle" {middle}>{shown}</text>')
    return _svg(title, size + overhang, size, parts)


def _svg(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    return f'<svg {size} role="img" aria-label="{text(title)}">{"".join(parts)}</svg>'
