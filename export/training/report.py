"""Training report of the card, with a loss that is comparable between character, word and subword tokenizers.

All units are normalized by the same text, so two models can be compared on the same validation split:

- A token counts as its own characters. For a subword these are the bytes that begin a character, so the subwords of a
  text have as many characters as the text.
- A word by Keras's rules counts as itself and the following space. Case, punctuation and line breaks, which such a
  model never predicts, are not counted either.
- An end token is one character, like the line break in its place in a running text.
- Unknown tokens are excluded on both sides: from the loss and from the character count. A model with a smaller
  vocabulary is evaluated on less of the text, so report that share beside the result.
"""

import math
from collections.abc import Sequence

import numpy as np

from contract.card import CorpusDescription, NoTrainingFilter, Sample, TrainingReport
from contract.tokenizer import SubwordTokenizer, Tokenizer, WordTokenizer
from export.config import TrainConfig
from export.corpora.memorization import Memorization
from export.corpora.spool import blocks
from export.repository.history import Progress
from export.training.model import count_parameters

_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80


def count_characters(tokenizer: Tokenizer, token_ids: np.ndarray) -> int:
    """Count the characters of tokens, without unknown ones, in any order; the tokenizer is not an imported one."""
    size = len(tokenizer.tokens)
    counts = sum((np.bincount(block, minlength=size) for block in blocks(token_ids)), np.zeros(size, np.int64))
    lengths = [_length(tokenizer, token_id) if counts[token_id] else 0 for token_id in range(len(tokenizer.tokens))]
    return int(counts @ np.asarray(lengths, np.int64))


def _length(tokenizer: Tokenizer, token_id: int) -> int:
    if token_id == tokenizer.special.end:
        return 1
    if isinstance(tokenizer, SubwordTokenizer):
        return sum(byte & _CONTINUATION_MASK != _CONTINUATION for byte in tokenizer.join([token_id]))
    text = tokenizer.decode([token_id])
    space = len(tokenizer.rules.split) if text and isinstance(tokenizer, WordTokenizer) else 0
    return len(text) + space


def bits_per_character(loss: float | None, num_tokens: int, num_characters: int) -> float | None:
    """Convert a loss, the mean over some tokens in nats, to bits per character; None without a loss."""
    return None if loss is None else loss * num_tokens / math.log(2) / num_characters


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
