"""What the card says of a training.

Knows settings, the facts about a corpus and the history of a run. Does not know how samples are written.
"""

from collections.abc import Sequence

from contract.card import Sample, TrainingReport
from export.config import TrainConfig
from export.corpora.bits_per_character import bits_per_character
from export.corpora.memorization import Memorization
from export.repository.history import Progress
from export.training.model import count_parameters
from export.training.runs import CorpusFacts


def report(
    config: TrainConfig,
    vocab_size: int,
    facts: CorpusFacts,
    progress: Progress,
    samples: Sequence[Sample],
    copies: Memorization | None,
) -> TrainingReport:
    """Describe how the best epoch's weights came to be: what came after it has no part in them.

    Args:
        config: Settings.
        vocab_size: V.
        facts: What was learnt from.
        progress: At least one epoch.
        samples: What the model writes.
        copies: What it has by heart; None where the training text is not at hand.
    """
    best = progress.best
    return TrainingReport(
        **facts.model_dump(exclude={"judged_characters"}),
        epochs=round(best.tokens / facts.train_tokens, 2),
        train_loss=best.train_loss,
        validation_loss=best.validation_loss,
        accuracy=best.accuracy,
        bits_per_character=bits_per_character(best.validation_loss, facts.validation_tokens, facts.judged_characters),
        tokens_per_s=best.tokens / max(best.seconds, 1e-9),
        seconds=best.seconds,
        seed=config.seed,
        parameters=count_parameters(config, vocab_size),
        settings=config.model_dump(mode="json"),
        samples=tuple(samples),
        copied_spans=copies.share if copies else None,
        written_spans=copies.num_spans if copies else None,
    )
