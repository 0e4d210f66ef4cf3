"""The folder of a training run: what it takes to go on with it, and the best weights so far.

Knows files. Does not know how training works.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import keras
import tensorflow as tf

from contract.errors import ContractError
from contract.tokenizer import Tokenizer, load_tokenizer
from export.config import TrainConfig
from export.errors import ConfigError

RUNS = Path("runs")
_BEST, _CONFIG, _PROGRESS, _TOKENIZER, _CHECKPOINT = (
    "best.keras",
    "config.json",
    "progress.json",
    "tokenizer.json",
    "checkpoint",
)


@dataclass
class Progress:
    """Where a run stands after its last whole epoch.

    Attributes:
        epochs: Whole epochs done.
        seconds: Spent in them.
        tokens: Trained on in them.
        best_epoch: The epoch whose weights are in `best.keras`.
        best_loss: Its loss in nats per token, on the held-out tail where there is one.
        losses: (train, validation) of each epoch, nats per token.
    """

    epochs: int = 0
    seconds: float = 0.0
    tokens: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    losses: list[tuple[float, float | None]] = field(default_factory=list)


class RunFolder:
    """`runs/<name>`: configuration, tokenizer, progress, checkpoint and best weights of one training."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        """Start afresh; what another training of the name left here is removed."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        (self.path / _CONFIG).write_text(config.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (self.path / _TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")

    def load(self) -> tuple[TrainConfig, Tokenizer]:
        """Read what `create` wrote.

        Raises:
            ConfigError: this is not the folder of a run.
        """
        try:
            config = TrainConfig.model_validate_json((self.path / _CONFIG).read_bytes())
            return config, load_tokenizer(self.path / _TOKENIZER)
        except (OSError, ContractError, ValueError) as error:
            raise ConfigError(f"{self.path}: not the folder of a training run ({error})") from error

    def save(self, checkpoint: tf.train.Checkpoint, progress: Progress) -> None:
        """Write the checkpoint, then the progress that refers to it: a kill in between repeats an epoch."""
        checkpoint.write(str(self.path / _CHECKPOINT / str(progress.epochs)))
        draft = self.path / f".{_PROGRESS}"
        draft.write_text(json.dumps(dataclasses.asdict(progress)), encoding="utf-8")
        draft.replace(self.path / _PROGRESS)
        for old in (self.path / _CHECKPOINT).glob(f"{progress.epochs - 1}.*"):
            old.unlink()

    def restore(self, checkpoint: tf.train.Checkpoint) -> Progress:
        """Load the last whole epoch into `checkpoint`; a run without one starts at the beginning."""
        try:
            progress = Progress(**json.loads((self.path / _PROGRESS).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Progress()
        checkpoint.read(str(self.path / _CHECKPOINT / str(progress.epochs))).assert_consumed()
        return progress

    def save_best(self, model: keras.Model) -> None:
        """Keep a model as the best so far."""
        draft = self.path / f".{_BEST}"
        model.save(draft.with_suffix(".draft.keras"))
        draft.with_suffix(".draft.keras").replace(self.path / _BEST)

    @property
    def has_best(self) -> bool:
        """Whether any epoch has been kept."""
        return (self.path / _BEST).exists()

    def load_best(self) -> keras.Model:
        """Load the best model so far."""
        return keras.models.load_model(self.path / _BEST)
