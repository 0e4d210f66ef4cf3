"""Plots of losses by epoch, as PNG: of one training run, and of several versions side by side.

They use matplotlib's object API alone: `pyplot` would look for a display and change a notebook's current figure.
"""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from export.errors import PublishError
from export.repository.history import Progress, perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_INCHES, _DPI = (10, 4.2), 120
_TRAINING: dict[str, Any] = {"linestyle": "--", "linewidth": 1}
_VALIDATION: dict[str, Any] = {"linestyle": "-", "linewidth": 1.6}
_BEST: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 8, "markerfacecolor": "none"}
# Upper limit of the perplexity axis, in multiples of the best perplexity.
_HIGHEST = 6
# Ten colors are easy to distinguish.
_DISTINCT = 10
# With more epochs, dots would hide the line; a single epoch is invisible without a dot.
_DOTTED_EPOCHS = 40


@dataclass(frozen=True)
class Run:
    """The losses of a training run of at least one epoch."""

    label: str
    progress: Progress
    scale: float = 1.0  # factor from nats per token to the unit of the plot


def history_png(progress: Progress, title: str) -> bytes:
    """Plot the loss and the perplexity of a training run of at least one epoch, by epoch.

    Raises:
        PublishError: matplotlib is missing or fails.
    """

    def draw(left: "Axes", right: "Axes") -> None:
        runs, best = [Run(title, progress)], progress.best
        _draw(left, runs, _epochs, float)
        _draw(right, runs, _epochs, perplexity)
        left.set(xlabel="epoch", ylabel="loss, nats per token")
        right.set(xlabel="epoch", ylabel="perplexity")
        highest = _HIGHEST * _measured(best.loss, 1.0, perplexity)
        # The first epochs would make the differences of the others invisible.
        if right.get_ylim()[1] > highest:
            right.set_ylim(bottom=0, top=highest)
        kind = "training" if best.validation_loss is None else "validation"
        which = f"in epoch {progress.best_epoch} of {progress.epochs}"
        right.figure.suptitle(f"{title}: {kind} loss {best.loss:.3f} nats per token {which}", fontsize=11)

    return _png(draw, "history.png")


def comparison_png(runs: Sequence[Run], unit: str) -> bytes:
    """Plot the losses of several runs by epoch and by minutes, each in a color; raise as `history_png`."""

    def draw(left: "Axes", right: "Axes") -> None:
        lines = _draw(left, runs, _epochs, float)
        _draw(right, runs, _minutes, float)
        left.set(xlabel="epoch", ylabel=f"loss, {unit}")
        right.set(xlabel="minutes", ylim=left.get_ylim())
        labels = [run.label for run in runs]
        columns = min(5, len(runs))
        right.figure.legend(lines, labels, loc="outside lower center", ncols=columns, frameon=False)

    return _png(draw, "the plot")


def _png(draw: Callable[["Axes", "Axes"], None], name: str) -> bytes:
    """Return the PNG of a figure whose two panels `draw` fills."""
    try:
        # Imported here, as it takes a second.
        import matplotlib.style  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        # A user's matplotlibrc may require unavailable programs, such as LaTeX.
        with matplotlib.style.context("default"):
            figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
            draw(*figure.subplots(1, 2))
            file = io.BytesIO()
            figure.savefig(file, format="png", metadata={"Software": None})
    except Exception as error:
        # matplotlib may raise any exception, because of settings, fonts or files.
        raise PublishError(f"{name} cannot be drawn ({type(error).__name__}: {error})".replace("\n", " ")) from error
    return file.getvalue()


def _draw(
    axes: "Axes",
    runs: Sequence[Run],
    xs_of: Callable[[Progress], Sequence[float]],
    measure: Callable[[float], float | None],
) -> list["Line2D"]:
    """Draw a measure of the losses of all runs; return a line in the color of each run, for a legend."""
    import matplotlib as mpl  # noqa: PLC0415 - as above
    from matplotlib.lines import Line2D  # noqa: PLC0415
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    colors, color_lines = mpl.colormaps["tab10" if len(runs) <= _DISTINCT else "turbo"], []
    for i, run in enumerate(runs):
        progress, xs = run.progress, xs_of(run.progress)
        color = colors(i if len(runs) <= _DISTINCT else i / (len(runs) - 1))
        dots = "." if progress.epochs <= _DOTTED_EPOCHS else ""
        training, validation = (
            [_measured(getattr(epoch, name), run.scale, measure) for epoch in progress.history]
            for name in ("train_loss", "validation_loss")
        )
        axes.plot(xs, training, color=color, marker=dots, **_TRAINING)
        axes.plot(xs, validation, color=color, marker=dots, **_VALIDATION)
        best = _measured(progress.best.loss, run.scale, measure)
        axes.plot([xs[progress.best_epoch - 1]], [best], color=color, **_BEST)
        color_lines.append(Line2D([], [], color=color, linewidth=4))
    axes.xaxis.set_major_locator(MaxNLocator(integer=xs_of is _epochs, min_n_ticks=1))
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    styles = {"validation": _VALIDATION, "training": _TRAINING, "best epoch": _BEST}
    axes.legend([Line2D([], [], color="0.3", **style) for style in styles.values()], styles, frameon=False)
    return color_lines


def _epochs(progress: Progress) -> range:
    return range(1, progress.epochs + 1)


def _minutes(progress: Progress) -> list[float]:
    return [epoch.seconds / 60 for epoch in progress.history]


def _measured(loss: float | None, scale: float, measure: Callable[[float], float | None]) -> float:
    value = None if loss is None else measure(loss * scale)
    return math.nan if value is None else value
