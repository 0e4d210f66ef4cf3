"""Training loop: BPTT windows in order with carried state, validation, checkpoints and early stopping."""

import math
import time
from collections.abc import Sequence
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from export.config import TrainConfig
from export.errors import TrainingFailed
from export.interrupts import raise_if_interrupted
from export.repository.history import Epoch, Progress
from export.training.dataset import Dataset
from export.training.devices import Devices
from export.training.model import scaled_layer, scaled_logits
from export.training.optimization import Optimization
from export.training.runs import RunFolder

# Learning rate at the end of the run, as a share of the peak.
FINAL_RATE = 0.02
# Fraction of the run in which the learning rate decays. One and two passes ended 0.007 lower than with cosine decay,
# four and seven the same (`benchmarks/HISTORY.md`).
_DECAY = 0.5
# Prior of the scale of the logits: normal, with mean 1 and this standard deviation. It dominates with a hundred
# held-out tokens, and hardly matters with thousands.
_SCALE_DEVIATION = 0.05
# Far beyond the scales of trained models, 0.87 to 1: one step of Newton's method may go too far.
_SCALE_RANGE = 0.5, 1.5


class Display(Protocol):
    """Receiver of the training loop's progress."""

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Show one update: the epoch's mean loss so far, the tokens of the update, and the fraction of the run done."""

    def evaluation(self, validation_loss: float | None, fraction: float) -> None:
        """Show an evaluation within an epoch, and the fraction of the run done."""

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """Show the end of an epoch, `progress.last`."""


def learning_rate_at(fraction: float, peak: float, warmup: float) -> float:
    """Return the learning rate at a fraction of the run.

    Linear warmup to `peak` over the first `warmup` of the run, and linear decay to 2% over its second half, at the
    earliest from the end of the warmup on: Hägele et al. 2024 (arXiv 2405.18392).
    """
    if fraction < warmup:
        return peak * max(fraction / warmup, 1e-3)
    left = (1.0 - fraction) / min(_DECAY, 1.0 - warmup)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * min(max(left, 0.0), 1.0))


class Trainer:
    """Training loop of a model; `run` trains until the epoch or time limit, or until early stopping.

    The model is built within the scope of the devices' strategy. Without a validation split, epochs are compared by
    training loss. A deferred signal ends the training between two steps; the run directory has the last complete epoch.
    Besides the evaluation of each epoch there are `evaluations` within the run, evenly spaced, the last one at its end.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: keras.Model,
        dataset: Dataset,
        devices: Devices = Devices(),  # noqa: B008 - frozen
        evaluations: int = 1,
    ) -> None:
        self.config, self.dataset, self.devices = config, dataset, devices
        self.evaluations, self._num_evaluated = evaluations, 0
        self.optimization = Optimization(config, model, devices, dataset.tokenizer.special)
        self.averaged_model, self.checkpoint = self.optimization.averaged, self.optimization.checkpoint

    def run(self, folder: RunFolder, displays: Sequence[Display] = ()) -> Progress:
        """Train, and save a checkpoint of each epoch and the model of the best one.

        A run whose directory has epochs is resumed. All machines must see the directory; the chief writes to it.

        Raises:
            TrainingFailed: the loss or a weight is not a number.
            ConnectionError: the process of another machine is gone.
            RunError: the run directory is damaged.
            OSError: an epoch could not be saved.
        """
        progress = folder.restore(self.checkpoint)
        if self.config.base is not None and not progress.epochs:
            progress = progress.model_copy(update={"base_loss": self._validate(progress)[0]})
        started = time.monotonic() - progress.last.seconds
        self._num_evaluated = int(self._fraction(progress, started, 0) * self.evaluations)
        with self.devices.detect_lost_workers():
            # The first epoch runs regardless of the time limit: without it there would be nothing to publish.
            while progress.epochs == 0 or not self._is_over(progress, started):
                train_loss, epoch_tokens = self._train_epoch(progress, started, displays)
                validation_loss, accuracy, next_logit_scale = self._validate(progress)
                # Tokens and seconds are those of the whole run so far.
                epoch = Epoch(
                    train_loss=train_loss,
                    validation_loss=validation_loss,
                    accuracy=accuracy,
                    tokens=progress.last.tokens + epoch_tokens,
                    seconds=time.monotonic() - started,
                    logit_scale=progress.last.next_logit_scale,
                    next_logit_scale=next_logit_scale,
                )
                progress = progress.after(epoch)
                if self.devices.is_chief:
                    folder.save(self.checkpoint, self.averaged_model, progress)
                with scaled_logits(self.averaged_model, epoch.logit_scale):
                    for display in displays:
                        display.epoch(progress, self.averaged_model)
                raise_if_interrupted()
        return progress

    def _is_over(self, progress: Progress, started: float) -> bool:
        patience, epochs_without_improvement = self.config.patience, progress.epochs - progress.best_epoch
        # Each machine has its own clock, and all must stop at the same update.
        fraction = self.devices.broadcast(self._fraction(progress, started, 0))
        return fraction >= 1 or 0 < patience <= epochs_without_improvement

    def _fraction(self, progress: Progress, started: float, updates: int) -> float:
        """Return the fraction of the run done, by updates or by time, whichever is greater; 1 beyond its end."""
        epochs, minutes = self.config.max_epochs, self.config.max_minutes
        by_epochs = (progress.epochs + updates / self.dataset.train.num_batches) / epochs if epochs else 0.0
        return min(1.0, max(by_epochs, (time.monotonic() - started) / (60 * minutes) if minutes else 0.0))

    def _train_epoch(self, progress: Progress, started: float, displays: Sequence[Display]) -> tuple[float, int]:
        """Train for one epoch, or until the time limit, but on one batch at least.

        Returns the mean loss in nats per token, and the tokens trained on.
        """
        split = self.dataset.train
        states = self.optimization.zero_states(split.batch_size)
        total, num_targets, tokens = 0.0, 0, 0
        seeds = ([self.config.seed, progress.epochs, i] for i in range(3))
        offset_rng, reset_rng, label_rng = map(np.random.default_rng, seeds)
        for dropout in self.dataset.dropouts:
            dropout.apply(label_rng)
        for count, (inputs, targets) in enumerate(split.batches(offset_rng)):
            # With carried state alone the model would see the zero state only once per epoch, but every prompt and
            # every document starts from it. Documents that begin a window thus need no carried state.
            is_carried = reset_rng.random((inputs.shape[1], 1)) >= self.config.state_reset_probability
            is_carried &= inputs[0, :, None] != self.dataset.tokenizer.special.start
            fraction = self.devices.broadcast(self._fraction(progress, started, count))
            if count and fraction >= 1:
                break
            rate = learning_rate_at(fraction, self.config.learning_rate, self.config.warmup)
            loss, states = self.optimization.update(inputs, targets, states, is_carried.astype(np.float32), rate)
            self._require_number(loss, "the loss", progress)
            weight = self.optimization.num_targets(targets)
            total, num_targets, tokens = total + loss * weight, num_targets + weight, tokens + targets.size
            for display in displays:
                display.update(progress.epochs + 1, total / num_targets, targets.size, fraction)
            if (num_reached := int(fraction * self.evaluations)) > self._num_evaluated:
                self._num_evaluated = num_reached
                validation_loss, *_ = self._validate(progress)
                for display in displays:
                    display.evaluation(validation_loss, fraction)
            raise_if_interrupted()
        return total / num_targets, tokens

    def _validate(self, progress: Progress) -> tuple[float | None, float | None, float]:
        """Evaluate on the known tokens of the validation split, with carried state and without dropout.

        The logits have the scale that the evaluation after the last epoch returned.

        Returns the loss in nats per token, the share of tokens that were the most probable one, and the scale of the
        logits at which the loss would be lowest; None, None and 1 without a validation split.
        """
        # The last update of an epoch can make weights NaN or infinite; without validation no loss would show it.
        for weight in self.averaged_model.trainable_variables:
            self._require_number(float(tf.reduce_sum(tf.abs(weight))), f"the sum of |{weight.path}|", progress)
        split, scale = self.dataset.validation, progress.last.next_logit_scale
        if split is None:
            return None, None, 1.0
        states, sums = self.optimization.zero_states(split.batch_size), np.zeros(4)
        for inputs, targets in split.batches():
            batch_sums, states = self.optimization.evaluate(inputs, targets, states, scale)
            sums += batch_sums
            raise_if_interrupted()
        loss, slope, curvature, hits = sums.tolist()
        count = self.dataset.num_evaluated
        self._require_number(loss, "the validation loss", progress)
        next_scale = 1.0
        if scaled_layer(self.averaged_model) is not None:
            precision = _SCALE_DEVIATION**-2
            step = (slope + precision * (scale - 1)) / (curvature + precision)
            next_scale = float(np.clip(scale - step, *_SCALE_RANGE))
        return loss / count, hits / count, next_scale

    def _require_number(self, value: float, name: str, progress: Progress) -> None:
        if not math.isfinite(value):
            raise TrainingFailed(
                f"{name} is {value} in epoch {progress.epochs + 1}; lower --learning-rate "
                f"(now {self.config.learning_rate}) or --clip-norm (now {self.config.clip_norm})"
            )
