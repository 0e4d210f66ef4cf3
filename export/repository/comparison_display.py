"""`sostenuto compare`: versions side by side, as a table, as JSON and as a plot.

Knows rows and columns. `export.repository.comparison` decides what is comparable.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from export.errors import RepositoryError
from export.repository.card_metrics import architecture, setting_text
from export.repository.comparison import METRICS, Candidate, Comparison
from export.repository.versions import Repository
from export.terminal import Column, format_number, terminal_width, text_table, to_json, visible

_BEST, _OTHER = " *", "  "


def compare(models_dir: Path, references: Sequence[str], plot: Path | None, *, as_json: bool) -> int:
    """Print versions side by side, and plot their losses into a file if one is given. Returns the exit code.

    Raises:
        RepositoryError: there are fewer than two versions, one is missing or damaged, or nothing can be plotted.
    """
    versions = [Repository(models_dir).find(reference) for reference in references]
    if len({version.path.resolve() for version in versions}) < max(2, len(versions)):
        labels = ", ".join(version.label for version in versions)
        raise RepositoryError(f"at least two versions are needed, each named once; got {labels}")
    if plot is not None and plot.suffix.lower() != ".png":
        raise RepositoryError(f"plot must be a .png file, got {plot}")
    comparison = Comparison([Candidate.of(version) for version in versions])
    if as_json:
        print(to_json(_document(comparison)))
    else:
        legend = ["* best in its row"] if any(map(comparison.best, METRICS)) else []
        for line in (*_table(comparison), *legend, *comparison.notes()):
            print(line)
    if plot is not None:
        # matplotlib is slow to import.
        from export.repository.comparison_plot import draw  # noqa: PLC0415

        for line in draw(comparison, plot):
            print(line, file=sys.stderr if as_json else sys.stdout)
    return 0


def _table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the table, one column per version; columns that do not fit continue below."""
    rows = list(_rows(comparison))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for part in _parts(widths[1:], terminal_width(), widths[0]):
        titles, *cells = ([row[0], *(row[1 + i] for i in part)] for row in rows)
        columns = [Column(titles[0]), *(Column(title, right=True) for title in titles[1:])]
        yield from text_table(columns, cells, None)
        yield ""


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    candidates = comparison.candidates
    cards = [c.card for c in candidates]
    yield _row("", [c.label for c in candidates])
    yield _row("token unit", [card.unit for card in cards])
    yield _row("direction", [card.direction for card in cards])
    yield _row("architecture", [architecture(card) for card in cards])
    yield _row("best epoch", map(_epochs, candidates))
    for metric in METRICS:
        best = comparison.best(metric)
        yield _row(metric.title, [format_number(metric.value(c), metric.form) for c in candidates], best)
    for name, values in comparison.settings().items():
        yield _row(name, map(setting_text, values))


def _row(title: str, values: Iterable[Any], best: Iterable[int] = ()) -> list[str]:
    return [visible(title), *(visible(value) + (_BEST if i in best else _OTHER) for i, value in enumerate(values))]


def _parts(widths: Sequence[int], width: int | None, labels: int) -> Iterator[list[int]]:
    """Split columns into parts that fit next to the labels; a part has at least one column."""
    part, used = list[int](), labels
    for i, column_width in enumerate(widths):
        if part and width is not None and used + 2 + column_width > width:
            yield part
            part, used = [], labels
        part.append(i)
        used += 2 + column_width
    yield part


def _epochs(candidate: Candidate) -> str:
    if candidate.progress.epochs:
        return f"{candidate.progress.best_epoch} of {candidate.progress.epochs}"
    return format_number(candidate.reported("epochs"), "g")


def _document(comparison: Comparison) -> dict[str, Any]:
    """Return the contents of the table as a JSON document."""
    models = [
        {
            "model": c.label,
            "unit": c.card.unit,
            "direction": c.card.direction,
            "architecture": architecture(c.card),
            "best_epoch": c.progress.best_epoch or c.reported("epochs"),
            "epochs": c.progress.epochs or None,
            **{metric.name: metric.value(c) for metric in METRICS},
            "corpus_sha256": c.reported("corpus_sha256"),
            "held_out_characters": c.reported("held_out_characters"),
            "settings": c.reported("settings") or {},
        }
        for c in comparison.candidates
    ]
    labels = [c.label for c in comparison.candidates]
    best = {metric.name: [labels[i] for i in sorted(comparison.best(metric))] for metric in METRICS}
    return {"models": models, "best": best, "notes": list(comparison.notes())}
