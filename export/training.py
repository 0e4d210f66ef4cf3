"""Training with carried state: windows in order, the state of one handed to the next, the best epoch kept.

Knows optimisation. Does not know where text comes from, what the screen shows or how a version is published.
"""

import math
import time
from collections.abc import Callable
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from export.config import TrainConfig
from export.dataset import Dataset
from export.errors import TrainingFailed
from export.model import States, forward, zero_states
from export.runs import Epoch, Progress, RunFolder

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


class Trainer:
    """A model, its optimizer and the text; `run` trains until the epochs or the minutes are used up."""

    def __init__(
        self, config: TrainConfig, model: keras.Model, dataset: Dataset, obey: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare a training.

        Args:
            config: Its settings.
            model: As `export.model.build_model` returns it.
            dataset: What is learnt, and what the epochs are judged by; without the latter it is the training loss.
            obey: Called between two steps. What it raises ends the training; the folder holds the last whole epoch.
        """
        self.config, self.model, self.dataset, self.obey = config, model, dataset, obey
        self.optimizer = keras.optimizers.AdamW(
            config.learning_rate, weight_decay=config.weight_decay, beta_2=0.99, global_clipnorm=config.clip_norm
        )
        self.optimizer.exclude_from_weight_decay(var_names=["bias"])
        self.optimizer.build(model.trainable_variables)
        # Keras leaves the states of dropout's generators out of what TensorFlow tracks; a resumed run needs them.
        dropout = [variable.value for variable in model.non_trainable_variables]
        self.checkpoint = tf.train.Checkpoint(model=model, optimizer=self.optimizer, dropout=dropout)
        # One graph for windows of every length: with two, a resumed run would not be equal to the bit.
        token_ids = tf.TensorSpec([None, None], tf.int32)
        states = tf.nest.map_structure(lambda s: tf.TensorSpec([None, s.shape[1]], s.dtype), zero_states(model, 1))
        signature = [token_ids, token_ids, states]
        self._update = tf.function(self._update_step, input_signature=signature)
        self._evaluate = tf.function(self._evaluate_step, input_signature=signature)

    def run(self, folder: RunFolder, display: Display) -> Progress:
        """Train, keeping each epoch in the folder and the best one as such.

        Args:
            folder: Where the run lies; one that holds epochs already is gone on with.
            display: What to tell the progress to.

        Returns:
            Where the run stands.

        Raises:
            TrainingFailed: the loss or a weight is not a number.
            RunError: the folder is damaged.
            OSError: the disk did not take an epoch.
        """
        progress = folder.restore(self.checkpoint)
        started = time.monotonic() - progress.last.seconds
        # The first epoch takes place however little time there is: without it there would be nothing to publish.
        while progress.epochs == 0 or self._fraction(progress, started, 0) < 1:
            train_loss, tokens = self._train_epoch(progress, started, display)
            validation_loss = self._validate(progress)
            tokens, seconds = progress.last.tokens + tokens, time.monotonic() - started
            epoch = Epoch(train_loss=train_loss, validation_loss=validation_loss, tokens=tokens, seconds=seconds)
            progress = progress.after(epoch)
            folder.save(self.checkpoint, self.model, progress)
            display.epoch(progress, self.model)
            self.obey()
        return progress

    def _fraction(self, progress: Progress, started: float, windows: int) -> float:
        """Return how much of the run is done: by its updates or by its minutes, whichever is further."""
        by_epochs = (progress.epochs + windows / self.dataset.train.num_windows) / self.config.epochs
        limit = self.config.max_minutes
        return max(by_epochs, (time.monotonic() - started) / (60 * limit) if limit else 0.0)

    def _train_epoch(self, progress: Progress, started: float, display: Display) -> tuple[float, int]:
        """Pass over the text once, or until the minutes are used up, but for one window at least.

        Returns:
            Mean loss in nats per token, and the tokens trained on.
        """
        streams = self.dataset.train
        states = zero_states(self.model, streams.rows)
        total, tokens = 0.0, 0
        cuts, colds = (np.random.default_rng([self.config.seed, progress.epochs, i]) for i in range(2))
        for count, (inputs, targets) in enumerate(streams.windows(cuts)):
            states = self._some_forgotten(states, colds)
            fraction = self._fraction(progress, started, count)
            if count and fraction >= 1:
                break
            rate = learning_rate_at(fraction, self.config.learning_rate, self.config.warmup)
            self.optimizer.learning_rate.assign(rate)
            loss, states = self._update(tf.constant(inputs), tf.constant(targets), states)
            self._require_number(float(loss), "the loss", progress)
            total, tokens = total + float(loss) * targets.size, tokens + targets.size
            display.window(progress.epochs + 1, total / tokens, targets.size, fraction)
            self.obey()
        return total / tokens, tokens

    def _some_forgotten(self, states: States, rng: np.random.Generator) -> States:
        """Let some rows begin from the zero state: else a model would learn nothing of how to read a prompt.

        Carried state alone has the zero state once an epoch, and behind it the mark that begins a text.
        """
        kept = rng.random((self.dataset.train.rows, 1)) >= self.config.cold_starts
        return states if kept.all() else tf.nest.map_structure(lambda part: part * kept.astype(np.float32), states)

    def _validate(self, progress: Progress) -> float | None:
        """Return nats per known token of the held-out streams, with carried state and without dropout."""
        # The last update of an epoch can spoil the weights, and without validation no loss would tell.
        for weight in self.model.trainable_variables:
            self._require_number(float(tf.reduce_sum(tf.abs(weight))), f"the sum of |{weight.path}|", progress)
        streams = self.dataset.validation
        if streams is None:
            return None
        states = zero_states(self.model, streams.rows)
        total = 0.0
        for inputs, targets in streams.windows():
            loss, states = self._evaluate(tf.constant(inputs), tf.constant(targets), states)
            total += float(loss)
            self.obey()
        return self._require_number(total / self.dataset.num_judged, "the validation loss", progress)

    def _require_number(self, value: float, name: str, progress: Progress) -> float:
        if math.isfinite(value):
            return value
        raise TrainingFailed(
            f"{name} is {value} in epoch {progress.epochs + 1}; lower --learning-rate "
            f"(now {self.config.learning_rate}) or --clip-norm (now {self.config.clip_norm})"
        )

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
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return tf.reduce_sum(tf.where(targets == self.dataset.unknown, 0.0, losses)), states
