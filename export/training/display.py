"""Progress display of a training run: a progress bar, and a line and a sample after each epoch."""

import contextlib
import sys
import time
from typing import Protocol

import keras
from tqdm import tqdm

from export.repository.history import Progress
from export.terminal import echo, wrap_sample


class SampleSource(Protocol):
    """Source of the samples that are shown."""

    def write(self, model: keras.Model) -> str:
        """Return a sample of the model."""


class TerminalDisplay(contextlib.AbstractContextManager):
    """A progress bar of the whole run, and a line after each epoch; without a terminal, only the lines."""

    def __init__(self, samples: SampleSource) -> None:
        self._samples = samples
        self._validation_loss: float | None = None
        self._tokens, self._started = 0, time.monotonic()
        # A time limit may determine the fraction done, so the bar counts to 1, not windows.
        self._bar = tqdm(
            total=1.0,
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| {remaining} left{postfix}",
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
            miniters=0,
            smoothing=0,
        )

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Advance the bar."""
        if not self._tokens:
            # A resumed run starts in the middle; estimate the remaining time from this process's speed only.
            self._bar.initial = self._bar.n = fraction
        self._tokens += tokens
        validation = "" if self._validation_loss is None else f", val {self._validation_loss:.3f}"
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(f"loss {train_loss:.3f}{validation}, {self._rate():,.0f} tokens/s", refresh=False)
        self._bar.update(fraction - self._bar.n)

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """Print the epoch's losses and a sample."""
        last = progress.last
        self._validation_loss = last.validation_loss
        validation = "" if last.validation_loss is None else f", validation {last.validation_loss:.3f}"
        best = ", best so far" if progress.best_epoch == progress.epochs else ""
        losses = f"loss {last.train_loss:.3f}{validation} nats/token"
        echo(f"epoch {progress.epochs}: {losses}, {self._rate():,.0f} tokens/s{best}")
        echo(wrap_sample(self._samples.write(model)))

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._started, 1e-9)


class NoDisplay:
    """A display that shows nothing: in a distributed training only the chief shows the progress."""

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """See `export.training.trainer.Display`."""

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """See `export.training.trainer.Display`."""
