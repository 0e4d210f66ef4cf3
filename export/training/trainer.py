"""Training with carried state: windows in order, the state of one handed to the next, the best epoch kept.

Knows the order of a run and when it ends. What an update computes is `optimization`'s. Does not know where text comes
from, what the screen shows or how a version is published.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from export.config import TrainConfig
from export.errors import TrainingFailed
from export.repository.history import Epoch, Progress
from export.training.dataset import Dataset, Examples
from export.training.devices import Devices
from export.training.optimization import Optimization
from export.training.runs import RunFolder

# The last share of the peak learning rate, at the end of the cosine.
FINAL_RATE = 0.02


class Display(Protocol):
    """What the loop tells whoever watches."""

    def window(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Show one update: the epoch's mean loss so far, tokens just trained on, and how much of the run is done."""

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """Show the end of an epoch, the last one of the progress."""


def learning_rate_at(fraction: float, peak: float, warmup: float) -> float:
    """Rise linearly to `peak` over the first `warmup` of the run, then fall by a cosine to 2% of it."""
    if fraction < warmup:
        return peak * max(fraction / warmup, 1e-3)
    done = min(1.0, (fraction - warmup) / (1 - warmup))
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Evaluation:
    """What the held-out text says of a model: nats per token, and the share of tokens that were the most probable."""

    loss: float | None = None
    accuracy: float | None = None


class Trainer:
    """A model and a text; `run` trains until the epochs or the minutes are used up, or nothing gets better."""

    def __init__(
        self,
        config: TrainConfig,
        model: keras.Model,
        dataset: Dataset,
        raise_if_interrupted: Callable[[], None] = lambda: None,
        devices: Devices = Devices(),  # noqa: B008 - frozen
    ) -> None:
        """Prepare a training.

        Args:
            config: Its settings.
            model: As `export.training.model.build_model` returns it, within the scope of the devices' strategy.
            dataset: What is learnt, and what the epochs are judged by; without the latter it is the training loss.
            raise_if_interrupted: Called between two steps. What it raises ends the training; the folder holds the last
                whole epoch.
            devices: What it runs on.
        """
        self.config, self.dataset, self.raise_if_interrupted, self.devices = (
            config,
            dataset,
            raise_if_interrupted,
            devices,
        )
        self.optimization = Optimization(config, model, devices, dataset.unknown)
        self.model, self.checkpoint = self.optimization.averaged, self.optimization.checkpoint

    def run(self, folder: RunFolder, display: Display) -> Progress:
        """Train, keeping each epoch in the folder and the best one as such.

        Args:
            folder: Where the run lies; one that holds epochs already is gone on with. Of several machines each must
                see it, and the chief writes.
            display: What to tell the progress to.

        Returns:
            Where the run stands.

        Raises:
            TrainingFailed: the loss or a weight is not a number.
            WorkerLost: another process is gone.
            RunError: the folder is damaged.
            OSError: the disk did not take an epoch.
        """
        progress = folder.restore(self.checkpoint)
        started = time.monotonic() - progress.last.seconds
        with self.devices.together():
            # The first epoch takes place however little time there is: without it there would be nothing to publish.
            while progress.epochs == 0 or not self._is_over(progress, started):
                train_loss, tokens = self._train_epoch(progress, started, display)
                judgement = self._validate(progress)
                tokens, seconds = progress.last.tokens + tokens, time.monotonic() - started
                epoch = Epoch(
                    train_loss=train_loss,
                    validation_loss=judgement.loss,
                    accuracy=judgement.accuracy,
                    tokens=tokens,
                    seconds=seconds,
                )
                progress = progress.after(epoch)
                if self.devices.is_chief:
                    folder.save(self.checkpoint, self.model, progress)
                display.epoch(progress, self.model)
                self.raise_if_interrupted()
        return progress

    def _is_over(self, progress: Progress, started: float) -> bool:
        patience, waited = self.config.patience, progress.epochs - progress.best_epoch
        # Of several machines each has a clock of its own, and all must end together.
        fraction = self.devices.agreed(self._fraction(progress, started, 0))
        return fraction >= 1 or 0 < patience <= waited

    def _fraction(self, progress: Progress, started: float, windows: int) -> float:
        """Return how much of the run is done: by its updates or by its minutes, whichever is further."""
        epochs, minutes = self.config.max_epochs, self.config.max_minutes
        by_epochs = (progress.epochs + windows / self.dataset.train.num_windows) / epochs if epochs else 0.0
        return max(by_epochs, (time.monotonic() - started) / (60 * minutes) if minutes else 0.0)

    def _train_epoch(self, progress: Progress, started: float, display: Display) -> tuple[float, int]:
        """Pass over the text once, or until the minutes are used up, but for one window at least.

        Returns:
            Mean loss in nats per token, and the tokens trained on.
        """
        streams = self.dataset.train
        states = self._zero_states(streams)
        total, tokens = 0.0, 0
        cuts, colds = (np.random.default_rng([self.config.seed, progress.epochs, i]) for i in range(2))
        for count, (inputs, targets) in enumerate(streams.windows(cuts)):
            # A model must learn to read a prompt from nothing; carried state has the zero state once an epoch.
            kept = (colds.random((streams.rows, 1)) >= self.config.state_reset_probability).astype(np.float32)
            fraction = self.devices.agreed(self._fraction(progress, started, count))
            if count and fraction >= 1:
                break
            rate = learning_rate_at(fraction, self.config.learning_rate, self.config.warmup)
            loss, states = self.optimization.update(inputs, targets, states, kept, rate)
            self._require_number(loss, "the loss", progress)
            total, tokens = total + loss * targets.size, tokens + targets.size
            display.window(progress.epochs + 1, total / tokens, targets.size, fraction)
            self.raise_if_interrupted()
        return total / tokens, tokens

    def _zero_states(self, streams: Examples) -> object:
        return self.optimization.zero_states(streams.rows)

    def _validate(self, progress: Progress) -> Evaluation:
        """Judge by the known tokens of the held-out streams, with carried state and without dropout."""
        # The last update of an epoch can spoil the weights, and without validation no loss would tell.
        for weight in self.model.trainable_variables:
            self._require_number(float(tf.reduce_sum(tf.abs(weight))), f"the sum of |{weight.path}|", progress)
        streams = self.dataset.validation
        if streams is None:
            return Evaluation()
        states = self._zero_states(streams)
        loss, hits = 0.0, 0.0
        for inputs, targets in streams.windows():
            window_loss, window_hits, states = self.optimization.judge(inputs, targets, states)
            loss, hits = loss + window_loss, hits + window_hits
            self.raise_if_interrupted()
        count = self.dataset.num_judged
        return Evaluation(self._require_number(loss / count, "the validation loss", progress), hits / count)

    def _require_number(self, value: float, name: str, progress: Progress) -> float:
        if math.isfinite(value):
            return value
        raise TrainingFailed(
            f"{name} is {value} in epoch {progress.epochs + 1}; lower --learning-rate "
            f"(now {self.config.learning_rate}) or --clip-norm (now {self.config.clip_norm})"
        )
