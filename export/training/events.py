"""Training metrics as TensorBoard event files: `tensorboard --logdir runs/<name>/tensorboard`.

Knows event files. Writing them does not need the `tensorboard` package; viewing them does.
"""

import contextlib
from pathlib import Path

import keras
import tensorflow as tf

from export.config import TrainConfig
from export.repository.history import Progress, perplexity
from export.training.trainer import Display, learning_rate_at

_SCALARS = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class EventDisplay(contextlib.AbstractContextManager):
    """Display that writes metrics to event files and forwards to another display.

    The step of a metric is the number of tokens trained on since the run began; `tokens` of them before it was resumed.
    The folder may contain event files from before.
    """

    def __init__(self, display: Display, folder: Path, config: TrainConfig, tokens: int) -> None:
        self._display, self._config, self._tokens = display, config, tokens
        self._writer = tf.summary.create_file_writer(str(folder))

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def update(self, epoch: int, train_loss: float, tokens: int, fraction: float) -> None:
        """See `export.training.trainer.Display`."""
        self._tokens += tokens
        rate = learning_rate_at(fraction, self._config.learning_rate, self._config.warmup)
        self._write({"train/loss": train_loss, "train/learning_rate": rate})
        self._display.update(epoch, train_loss, tokens, fraction)

    def epoch(self, progress: Progress, model: keras.Model) -> None:
        """See `export.training.trainer.Display`."""
        last = progress.last
        metrics = {
            "validation/loss": last.validation_loss,
            "validation/perplexity": perplexity(last.validation_loss),
            "validation/accuracy": last.accuracy,
        }
        self._write({name: value for name, value in metrics.items() if value is not None})
        self._writer.flush()
        self._display.epoch(progress, model)

    def _write(self, values: dict[str, float]) -> None:
        with self._writer.as_default():
            for name, value in values.items():
                tf.summary.write(name, tf.constant(value, tf.float32), self._tokens, _SCALARS)
