"""The epochs of a training run, in the run directory and in `assets.extra/history.json` of a version."""

import math
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from contract.errors import first_problem
from contract.signatures import ASSETS
from export.errors import RepositoryError

HISTORY_FILE = "history.json"


# A version's history has more fields per epoch than a resumed run needs.
class Epoch(BaseModel, frozen=True, extra="ignore"):
    """Result of one epoch."""

    train_loss: float  # nats per token, with dropout, while the weights change
    validation_loss: float | None  # nats per token of the validation split; None if nothing is held out
    accuracy: float | None  # share of the validation tokens that were the most probable one; None likewise
    tokens: int  # trained on since the run began
    seconds: float  # of training since the run began, without interruptions
    # Factor of the logits, in the validation loss and in the model of the epoch: temperature scaling, Guo et al. 2017
    # (arXiv 1706.04599).
    logit_scale: float = 1.0
    next_logit_scale: float = 1.0  # of the next epoch: the one with the lowest validation loss after this epoch

    @property
    def loss(self) -> float:
        """The loss that epochs are compared by: validation loss, or training loss without a validation split."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


class Progress(BaseModel, frozen=True, extra="ignore"):
    """Progress of a run: its complete epochs, and the validation loss of the base before the first one.

    `base_loss` is in nats per token; None for a run from scratch, or if nothing is held out.
    """

    history: tuple[Epoch, ...] = ()
    base_loss: float | None = None

    def after(self, epoch: Epoch) -> "Progress":
        return self.model_copy(update={"history": (*self.history, epoch)})

    @property
    def epochs(self) -> int:
        return len(self.history)

    @property
    def last(self) -> Epoch:
        """The last epoch; before the first one, an empty epoch."""
        empty = Epoch(train_loss=0, validation_loss=None, accuracy=None, tokens=0, seconds=0)
        return self.history[-1] if self.history else empty

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the lowest loss, from 1; the earlier one of equals; 0 before the first epoch."""
        losses = [epoch.loss for epoch in self.history]
        return losses.index(min(losses)) + 1 if losses else 0

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest loss."""
        return self.history[self.best_epoch - 1]


_EPOCHS = TypeAdapter(tuple[Epoch, ...])


def read_history(version_dir: Path) -> Progress:
    """Read the epochs of a published version; an imported model has none.

    Raises:
        RepositoryError: the file is damaged.
    """
    path = version_dir / ASSETS / HISTORY_FILE
    try:
        return Progress(history=_EPOCHS.validate_json(path.read_bytes()))
    except FileNotFoundError:
        return Progress()
    except OSError as error:
        raise RepositoryError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise RepositoryError(f"{path}: damaged ({first_problem(error)})") from error


def perplexity(loss: float | None) -> float | None:
    """Return the perplexity, e to the power of a loss in nats; None if it overflows."""
    try:
        return None if loss is None else math.exp(loss)
    except OverflowError:
        return None
