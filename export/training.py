"""Training with carried state: windows in order, the state of one handed to the next, the best epoch kept.

Knows optimisation. Does not know where text comes from, what the screen shows or how a version is published.
"""

import math
import time
from dataclasses import dataclass
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from export.config import TrainConfig
from export.dataset import Streams
from export.errors import TrainingFailed
from export.model import forward, zero_states
from export.runs import Progress, RunFolder

# The last share of the peak learning rate, at the end of the cosine.
FINAL_RATE = 0.02


@dataclass(frozen=True)
class EpochReport:
    """One epoch's outcome; losses in nats per token, None where nothing is held out."""

    epoch: int
    train_loss: float
    validation_loss: float | None
    is_best: bool


class Display(Protocol):
    """What the loop tells whoever watches."""

    def window(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """Show one update: the epoch's mean loss so far, tokens just trained on, and how much of the run is done."""

    def epoch(self, report: EpochReport, model: keras.Model) -> None:
        """Show the end of an epoch."""


def learning_rate_at(fraction: float, peak: float, warmup: float) -> float:
    """Rise linearly to `peak` over the first `warmup` of the run, then fall by a cosine to 2% of it."""
    if fraction < warmup:
        return peak * max(fraction / warmup, 1e-3)
    done = min(1.0, (fraction - warmup) / (1 - warmup))
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


class Trainer:
    """A model, its optimizer and the text; `run` trains until the epochs or the minutes are used up."""

    def __init__(self, config: TrainConfig, model: keras.Model, train: Streams, validation: Streams | None) -> None:
        """Prepare a training.

        Args:
            config: Its settings.
            model: As `export.model.build_model` returns it.
            train: What is learnt.
            validation: What the epochs are judged by; None judges by the training loss.
        """
        self.config, self.model, self.train, self.validation = config, model, train, validation
        self.optimizer = keras.optimizers.AdamW(
            config.learning_rate, weight_decay=config.weight_decay, beta_2=0.99, global_clipnorm=config.clip_norm
        )
        self.optimizer.exclude_from_weight_decay(var_names=["bias"])
        self.optimizer.build(model.trainable_variables)
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=self.optimizer)
        self._update = tf.function(self._update_step, reduce_retracing=True)
        self._evaluate = tf.function(self._evaluate_step, reduce_retracing=True)

    def run(self, folder: RunFolder, display: Display) -> Progress:
        """Train, keeping each epoch in the folder and the best one as such.

        Returns:
            Where the run stands. `KeyboardInterrupt` passes through: the folder holds the last whole epoch.

        Raises:
            TrainingFailed: the loss is not a number.
        """
        progress = folder.restore(self.checkpoint)
        started = time.monotonic() - progress.seconds
        while progress.epochs < self.config.epochs and self._fraction(progress, started, 0) < 1:
            losses = self._train_epoch(progress, started, display)
            validation_loss = self._mean_loss(self.validation) if self.validation else None
            self._note(progress, float(np.mean(losses)), validation_loss, time.monotonic() - started)
            is_best = progress.best_epoch == progress.epochs
            if is_best:
                folder.save_best(self.model)
            folder.save(self.checkpoint, progress)
            display.epoch(EpochReport(progress.epochs, *progress.losses[-1], is_best), self.model)
        return progress

    def _note(self, progress: Progress, train_loss: float, validation_loss: float | None, seconds: float) -> None:
        progress.epochs += 1
        progress.seconds = seconds
        progress.losses.append((train_loss, validation_loss))
        loss = train_loss if validation_loss is None else validation_loss
        if loss < progress.best_loss:
            progress.best_epoch, progress.best_loss = progress.epochs, loss

    def _fraction(self, progress: Progress, started: float, windows: int) -> float:
        """Return how much of the run is done: by its updates or by its minutes, whichever is further."""
        by_epochs = (progress.epochs + windows / self.train.num_windows) / self.config.epochs
        limit = self.config.max_minutes
        return max(by_epochs, (time.monotonic() - started) / (60 * limit) if limit else 0.0)

    def _train_epoch(self, progress: Progress, started: float, display: Display) -> list[float]:
        """Pass over the text once, or until the minutes are used up; return each window's loss."""
        rng = np.random.default_rng([self.config.seed, progress.epochs])
        # Each epoch cuts its windows elsewhere, or every update would truncate at the same places.
        skip = int(rng.integers(0, max(1, min(self.train.window, self.train.inputs.shape[1] // 2))))
        states = zero_states(self.model, self.train.rows)
        losses: list[float] = []
        for inputs, targets in self.train.windows(skip):
            fraction = self._fraction(progress, started, len(losses))
            if fraction >= 1:
                break
            rate = learning_rate_at(fraction, self.config.learning_rate, self.config.warmup)
            self.optimizer.learning_rate.assign(rate)
            loss, states = self._update(tf.constant(inputs), tf.constant(targets), states)
            losses.append(float(loss))
            if not math.isfinite(losses[-1]):
                raise TrainingFailed(
                    f"the loss is {losses[-1]} in epoch {progress.epochs + 1}; lower --learning-rate "
                    f"(now {self.config.learning_rate}) or --clip-norm (now {self.config.clip_norm})"
                )
            progress.tokens += inputs.size
            display.window(progress.epochs + 1, float(np.mean(losses)), inputs.size, fraction)
        return losses

    def _mean_loss(self, streams: Streams) -> float:
        """Return nats per token over whole streams, with carried state and without dropout."""
        states = zero_states(self.model, streams.rows)
        total = 0.0
        for inputs, targets in streams.windows():
            loss, states = self._evaluate(tf.constant(inputs), tf.constant(targets), states)
            total += float(loss) * inputs.size
        return total / streams.num_tokens

    def _update_step(self, inputs, targets, states):  # noqa: ANN001, ANN202 - traced by TensorFlow
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits, states = forward(self.model, inputs, states, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self.optimizer.apply([tf.convert_to_tensor(gradient) for gradient in gradients], variables)
        return loss, states

    def _evaluate_step(self, inputs, targets, states):  # noqa: ANN001, ANN202 - traced by TensorFlow
        logits, states = forward(self.model, inputs, states, training=False)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)), states
