"""Plot of the losses of compared versions by epoch.

Knows matplotlib, but only its object API: `pyplot` would keep every figure and choose a GUI backend.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from contract.files import write_atomically
from export.errors import RepositoryError
from export.repository.comparison import Candidate, Comparison

_SIZE, _DPI = (11.0, 5.0), 120
# Ten colours are easy to distinguish.
_DISTINCT = 10
_NATS, _BITS = "nats per token", "bits per character"


def draw(comparison: Comparison, path: Path) -> Iterator[str]:
    """Write a plot: validation losses solid, training losses dashed, by epoch and by minutes.

    Losses are in nats per token. If the versions' tokens differ, losses are in bits per character, if these are known
    of all versions; training losses are then converted by the validation split's characters per token.

    Yields:
        Messages about the plot.

    Raises:
        RepositoryError: no version has a `history.json`.
        OSError: the plot cannot be written.
    """
    plotted = [c for c in comparison.candidates if c.progress.epochs]
    if not plotted:
        raise RepositoryError(f"{path}: nothing to plot: no version has a history.json")
    for c in comparison.candidates:
        if not c.progress.epochs:
            yield f"not in the plot: {c.label}, its epochs are unknown"
    scales = [c.bits_per_nat for c in plotted]
    in_bits = not comparison.same_tokens and None not in scales
    unit = _BITS if in_bits else _NATS if comparison.same_tokens else f"{_NATS}, of different tokens"
    figure = _figure(plotted, [scale if in_bits and scale else 1.0 for scale in scales], unit)
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_atomically(path, picture.getvalue())
    yield f"written {path}: losses in {unit}"


def _figure(candidates: Sequence[Candidate], scales: Sequence[float], unit: str) -> Figure:
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    colours = mpl.colormaps["tab10" if len(candidates) <= _DISTINCT else "turbo"]
    handles = []
    for i, (candidate, scale) in enumerate(zip(candidates, scales, strict=True)):
        colour = colours(i if len(candidates) <= _DISTINCT else i / (len(candidates) - 1))
        numbers = range(1, candidate.progress.epochs + 1)
        _curves(left, list(numbers), candidate, scale, colour)
        _curves(right, [epoch.seconds / 60 for epoch in candidate.progress.history], candidate, scale, colour)
        handles.append(Line2D([], [], color=colour, linewidth=4))
    left.set(xlabel="epoch", ylabel=f"loss, {unit}")
    left.xaxis.get_major_locator().set_params(integer=True)
    right.set(xlabel="minutes")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    styles = [Line2D([], [], color="0.3"), Line2D([], [], color="0.3", linestyle="--"), _ring("0.3")]
    right.legend(styles, ["validation", "training", "best epoch"], loc="upper right")
    labels = [c.label for c in candidates]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)), frameon=False)
    return figure


def _curves(axes: Axes, xs: Sequence[float], candidate: Candidate, scale: float, colour: Any) -> None:
    history = candidate.progress.history
    training = [epoch.train_loss * scale for epoch in history]
    validation = [float("nan") if epoch.validation_loss is None else epoch.validation_loss * scale for epoch in history]
    # A dot for each epoch: a single epoch has no visible line.
    axes.plot(xs, training, color=colour, linestyle="--", linewidth=1, marker=".", markersize=3)
    axes.plot(xs, validation, color=colour, linewidth=1.6, marker=".", markersize=4)
    best = candidate.progress.best_epoch - 1
    axes.add_line(_ring(colour, xs[best], history[best].loss * scale))


def _ring(colour: Any, *point: float) -> Line2D:
    x, y = ([value] for value in point) if point else ([], [])
    return Line2D(x, y, color=colour, linestyle="none", marker="o", markersize=8, fillstyle="none")
