"""Training report of the card.

Knows settings, the description of a corpus and the history of a run. Does not know how samples are generated.
"""

from collections.abc import Sequence

from contract.card import CorpusDescription, NoTrainingFilter, Sample, TrainingReport
from export.config import TrainConfig
from export.corpora.bits_per_character import bits_per_character
from export.corpora.memorization import Memorization
from export.repository.history import Progress
from export.training.model import count_parameters


def report(
    config: TrainConfig,
    vocab_size: int,
    corpus: CorpusDescription,
    progress: Progress,
    samples: Sequence[Sample],
    memorization: Memorization | None,
    no_training_filter: NoTrainingFilter | None = None,
) -> TrainingReport:
    """Return the training report of the best of at least one epoch; it ignores later epochs.

    The memorization in the model's output is None if the training text is unavailable; `no_training_filter` says why
    the version has no training filter.
    """
    best = progress.best
    return TrainingReport(
        **corpus.model_dump(),
        epochs=round(best.tokens / corpus.train_tokens, 2),
        train_loss=best.train_loss,
        validation_loss=best.validation_loss,
        accuracy=best.accuracy,
        bits_per_character=bits_per_character(
            best.validation_loss, corpus.validation_tokens, corpus.validation_characters
        ),
        tokens_per_s=best.tokens / max(best.seconds, 1e-9),
        seconds=best.seconds,
        seed=config.seed,
        parameters=count_parameters(config, vocab_size),
        settings=config.model_dump(mode="json"),
        samples=tuple(samples),
        copied_spans=memorization.share if memorization else None,
        written_spans=memorization.num_spans if memorization else None,
        no_training_filter=no_training_filter,
    )
