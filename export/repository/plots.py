"""Plot of a training run: loss and perplexity by epoch.

Knows matplotlib, but only its object API: it opens no window and leaves the caller's current figure alone. Does no IO.
"""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from export.errors import PublishError
from export.repository.history import Progress, perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TRAINING, _VALIDATION = "#3b6fb6", "#d9722b"
_GREY = "#666666"
# Upper limit of the perplexity axis, in multiples of the best perplexity.
_HIGHEST = 6
_INCHES, _DPI = (10, 4.2), 120
# With more epochs, a dot per epoch would hide the line.
_DOTTED_EPOCHS = 40


def history_png(progress: Progress, title: str) -> bytes:
    """Plot the losses and perplexities of a training run of at least one epoch, with its best epoch marked, as PNG.

    Raises:
        PublishError: matplotlib is missing or fails.
    """
    try:
        # Imported here: it takes a second, and is needed only at the end of a training run.
        import matplotlib.style  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        # A user's matplotlibrc may require what is unavailable here, such as LaTeX.
        with matplotlib.style.context("default"):
            figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
            left, right = figure.subplots(1, 2)
            _draw(left, progress, "loss, nats per token", lambda loss: loss)
            _draw(right, progress, "perplexity", perplexity)
            best = progress.best
            highest = _HIGHEST * _measured(best.loss, perplexity)
            # The first epochs would make the differences of the others invisible.
            if right.get_ylim()[1] > highest:
                right.set_ylim(bottom=0, top=highest)
            kind = "training" if best.validation_loss is None else "validation"
            which = f"in epoch {progress.best_epoch} of {progress.epochs}"
            figure.suptitle(f"{title}: {kind} loss {best.loss:.3f} nats per token {which}", fontsize=11)
            file = io.BytesIO()
            figure.savefig(file, format="png", metadata={"Software": None})
    except Exception as error:
        # matplotlib may raise any exception, because of settings, fonts or files.
        raise PublishError(
            f"history.png cannot be drawn ({type(error).__name__}: {error})".replace("\n", " ")
        ) from error
    return file.getvalue()


def _draw(axes: "Axes", progress: Progress, label: str, measure: Callable[[float], float | None]) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - as above

    dots = "o" if progress.epochs <= _DOTTED_EPOCHS else ""
    training, validation = zip(*[(epoch.train_loss, epoch.validation_loss) for epoch in progress.history], strict=True)
    curves = [("training", _TRAINING, training), ("validation", _VALIDATION, validation)]
    for name, colour, losses in curves if any(loss is not None for loss in validation) else curves[:1]:
        values = [_measured(loss, measure) for loss in losses]
        axes.plot(range(1, progress.epochs + 1), values, color=colour, label=name, marker=dots, markersize=3.5, lw=1.6)
    best, value = progress.best_epoch, _measured(progress.best.loss, measure)
    name = f"best epoch: {best}" + ("" if math.isnan(value) else f", {value:,.3f}")
    axes.axvline(best, color=_GREY, lw=0.9, ls="--", zorder=0)
    axes.plot([best], [value], color=_GREY, ls="--", lw=0.9, marker="o", markersize=9, mfc="none", mew=1.3, label=name)
    space = max(0.3, progress.epochs * 0.02)
    axes.set(xlabel="epoch", ylabel=label, xlim=(1 - space, progress.epochs + space))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _measured(loss: float | None, measure: Callable[[float], float | None]) -> float:
    """Return the measure of a loss; NaN, which leaves a gap, if there is none."""
    value = None if loss is None else measure(loss)
    return math.nan if value is None else value
