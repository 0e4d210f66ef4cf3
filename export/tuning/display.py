"""Display of a search: a progress bar of its minutes, a line after each trial, and a table of all."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from export.terminal import Column, echo, format_number, fraction_bar, text_table
from export.tuning.trials import Trial

_COLUMNS = (
    Column("trial", right=True),
    Column("validation loss", right=True),
    Column("minutes", right=True),
    Column("epochs", right=True),
    Column("state"),
    Column("settings"),
)


class SearchDisplay(contextlib.AbstractContextManager):
    """A progress bar of the minutes, and a line after each trial; without a terminal, only the lines."""

    def __init__(self, minutes: float) -> None:
        self._seconds, self._started = 60 * minutes, time.monotonic()
        # The time left is given, not estimated; no other field comes before the postfix.
        self._bar = fraction_bar("{unit}")

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, trial: Trial, best: Trial | None) -> None:
        done = time.monotonic() - self._started
        left = max(0, round(self._seconds - done))
        self._bar.unit, shown = f"{left // 60}:{left % 60:02}", list[str]()
        if trial.train_loss is not None:
            shown.append(f"loss {trial.train_loss:.3f}")
        if trial.loss is not None:
            shown.append(f"val {trial.loss:.3f}")
        if best is not None and best is not trial:
            shown.append(f"best {best.epoch_loss:.3f}")
        self._bar.set_description_str(f"trial {trial.number}", refresh=False)
        self._bar.set_postfix_str(", ".join(shown), refresh=False)
        self._bar.update(min(1.0, done / self._seconds) - self._bar.n)

    def ended(self, trial: Trial, best: Trial | None) -> None:
        loss = "no validation loss" if trial.loss is None else f"validation loss {trial.loss:.3f}"
        others = "" if best is None or best is trial else f" (best {best.epoch_loss:.3f}, trial {best.number})"
        outcome = f"{trial.state}: {trial.error}" if trial.error else trial.state
        echo(
            f"trial {trial.number}, {describe(trial)}: {loss} after {trial.trained_minutes:.1f} min, {outcome}{others}"
        )


def describe(trial: Trial) -> str:
    """Return the settings of a trial in one line."""
    return ", ".join(f"{name} {value}" for name, value in trial.settings.items()) or "the recipe"


def results_table(trials: Sequence[Trial]) -> Iterator[str]:
    """Yield the lines of a table of the trials, the lowest validation loss first; lines may be long."""

    def loss(trial: Trial) -> float:
        return float("inf") if trial.loss is None else trial.loss

    rows = [
        [
            str(trial.number),
            format_number(trial.loss, ".3f"),
            f"{trial.trained_minutes:.1f}",
            str(trial.epochs),
            trial.state,
            describe(trial),
        ]
        for trial in sorted(trials, key=loss)
    ]
    return text_table(_COLUMNS, rows, width=None)
