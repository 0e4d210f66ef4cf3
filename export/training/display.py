"""Displays of a training run: a progress bar, and a line and a sample after each epoch; TensorBoard event files."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from contract.card import Sample
from export.config import TrainConfig
from export.repository.card_facts import sample_text
from export.repository.history import Progress, perplexity
from export.terminal import echo, fraction_bar, wrap_sample
from export.training.trainer import learning_rate_at

_SCALARS = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class TerminalDisplay(contextlib.AbstractContextManager):
    """A progress bar of the whole run, and a line after each epoch; without a terminal, only the lines.

    `write` returns samples of a model with this direction.
    """

    def __init__(self, write: Callable[[keras.Model], Sequence[Sample]], direction: str = "forward") -> None:
        self._write, self._direction = write, direction
        self.samples: Sequence[Sample] = ()  # those of the last epoch
        self._validation_loss: float | None = None
        self._tokens, self._started = 0, time.monotonic()
        self._bar = fraction_bar("{remaining}")

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        if not self._tokens:
            # A resumed run starts in the middle; estimate the remaining time from this process's speed only.
            self._bar.initial = self._bar.n = fraction
        self._tokens += tokens
        validation = "" if self._validation_loss is None else f", val {self._validation_loss:.3f}"
        self._bar.set_description_str(f"epoch {epoch}", refresh=False)
        self._bar.set_postfix_str(f"loss {train_loss:.3f}{validation}, {self._rate():,.0f} tokens/s", refresh=False)
        self._bar.update(fraction - self._bar.n)

    def evaluation(self, validation_loss: float | None, fraction: float) -> None:  # noqa: ARG002 - see `Display`
        self._validation_loss = validation_loss

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        last = progress.last
        self._validation_loss = last.validation_loss
        validation = "" if last.validation_loss is None else f", validation {last.validation_loss:.3f}"
        best = ", best so far" if progress.best_epoch == progress.epochs else ""
        losses = f"loss {last.train_loss:.3f}{validation} nats/token"
        if progress.base_loss is not None and progress.epochs == 1:
            losses += f" ({progress.base_loss:.3f} before the first update)"
        echo(f"epoch {progress.epochs}: {losses}, {self._rate():,.0f} tokens/s{best}")
        self.samples = self._write(model)
        echo(wrap_sample("\n".join(sample_text(each, self._direction) for each in self.samples)))

    def _rate(self) -> float:
        return self._tokens / max(time.monotonic() - self._started, 1e-9)


class ProgressFile:
    """A file of JSON Lines for programs that follow a run: an update every second, evaluations, epochs with samples.

    `samples` returns those of the last epoch. Times are in seconds, losses in nats per token. A resumed run begins with
    its epochs `before`, without samples: a killed process may not have written the last one.
    """

    def __init__(self, path: Path, samples: Callable[[], Sequence[Sample]], before: Progress) -> None:
        self._path, self._samples, self._tokens = path, samples, before.last.tokens
        self._updated, self._next_at = 0.0, 0.0
        self._first: tuple[float, float] | None = None  # time after the first update, and the fraction done then
        for count in range(1, before.epochs + 1):
            self._write_epoch(before.model_copy(update={"history": before.history[:count]}), ())

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Write an update, at most one a second."""
        # The fraction is that before the update.
        before = self._updated
        now = self._updated = time.monotonic()
        self._tokens += tokens
        if self._first is None and before:
            self._first = before, fraction
        if now < self._next_at:
            return
        self._next_at = now + 1.0
        started, first_fraction = self._first or (now, fraction)
        done = fraction - first_fraction
        seconds_left = (before - started) / done * (1 - fraction) if done else None
        self._write(
            event="update",
            epoch=epoch,
            train_loss=train_loss,
            tokens=self._tokens,
            fraction=fraction,
            seconds_left=seconds_left,
        )

    def evaluation(self, validation_loss: float | None, fraction: float) -> None:
        self._write(event="evaluation", fraction=fraction, validation_loss=validation_loss)

    def epoch(self, progress: Progress, model: keras.Model) -> None:  # noqa: ARG002 - see `Display`
        self._write_epoch(progress, self._samples())

    def _write_epoch(self, progress: Progress, samples: Sequence[Sample]) -> None:
        is_best, shown = progress.best_epoch == progress.epochs, [sample.model_dump() for sample in samples]
        self._write(event="epoch", epoch=progress.epochs, is_best=is_best, samples=shown, **progress.last.model_dump())

    def _write(self, **values: object) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


class EventWriter(contextlib.AbstractContextManager):
    """A writer of metrics to event files, which `tensorboard --logdir runs/<name>/tensorboard` shows.

    The step of a metric is the number of tokens trained on since the run began, `tokens` of which before a resumption.
    The folder may contain event files from before. Writing them does not need the `tensorboard` package.
    """

    def __init__(self, folder: Path, config: TrainConfig, tokens: int) -> None:
        self._config, self._tokens = config, tokens
        self._writer = tf.summary.create_file_writer(str(folder))

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:  # noqa: ARG002 - see `Display`
        self._tokens += tokens
        rate = learning_rate_at(fraction, self._config.learning_rate, self._config.warmup)
        self._write({"train/loss": train_loss, "train/learning_rate": rate})

    def evaluation(self, validation_loss: float | None, fraction: float) -> None:  # noqa: ARG002 - see `Display`
        if validation_loss is not None:
            self._write({"validation/loss": validation_loss})

    def epoch(self, progress: Progress, model: keras.Model) -> None:  # noqa: ARG002 - see `Display`
        last = progress.last
        metrics = {
            "validation/loss": last.validation_loss,
            "validation/perplexity": perplexity(last.validation_loss),
            "validation/accuracy": last.accuracy,
        }
        self._write({name: value for name, value in metrics.items() if value is not None})
        self._writer.flush()

    def _write(self, values: dict[str, float]) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), self._tokens, _SCALARS)
