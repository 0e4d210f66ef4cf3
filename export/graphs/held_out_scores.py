"""Scores of held-out texts, whose quantiles are in the card: the gateway ranks scores of other texts among them."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from contract.card import GeneratorCard, HeldOutScores
from contract.label_columns import opening_ids
from contract.tokenizers import Tokenizer

# Minimum texts, below which percentiles are chance; maximum texts and tokens in all, some seconds on two cores.
MIN_SCORED, MAX_SCORED, MAX_TOKENS = 100, 1024, 2**15
# Mean length of documents that are scored whole: of records, not of chapters or plays.
RECORD_CHARACTERS = 1000
# Tokens of the longest text.
_MAX_LENGTH, _BATCH_SIZE = 1024, 64


def score_held_out(
    score: Callable[..., Mapping[str, tf.Tensor]], tokenizer: Tokenizer, documents: Sequence[str], card: GeneratorCard
) -> HeldOutScores | None:
    """Return quantiles of nats per character, each text scored by itself; None with fewer than 100 texts.

    Documents of at most 1,000 characters on average are scored whole, with their end token, if there is one; otherwise
    lines are scored. A model with labels scores texts without labels.
    """
    is_short = sum(map(len, documents)) <= RECORD_CHARACTERS * len(documents)
    is_whole = is_short and tokenizer.special.end is not None
    texts = documents if is_whole else (line for document in documents for line in document.split("\n"))
    start = opening_ids(tokenizer, card.label_columns, {}) if is_whole else []
    token_ids, num_characters = _encode(tokenizer, texts, start, backward=card.direction == "backward")
    if len(token_ids) < MIN_SCORED:
        return None
    nats = np.zeros(len(token_ids))
    by_length = sorted(range(len(token_ids)), key=lambda number: len(token_ids[number]))
    for place in range(0, len(by_length), _BATCH_SIZE):
        batch = by_length[place : place + _BATCH_SIZE]
        lengths = np.array([len(token_ids[number]) - 1 for number in batch], np.int32)
        padded = np.zeros((len(batch), lengths.max() + 1), np.int32)
        for row, number in zip(padded, batch, strict=True):
            row[: len(token_ids[number])] = token_ids[number]
        state = tf.zeros([len(batch), card.state_size])
        num_top = tf.zeros_like(lengths)
        outputs = score(token_ids=tf.constant(padded), lengths=tf.constant(lengths), state=state, num_top=num_top)
        nats[batch] = -outputs["logprobs"].numpy()[:, max(0, len(start) - 1) :].sum(axis=1, dtype=np.float64)
    quantiles = np.quantile(nats / num_characters, np.linspace(0, 1, 101))
    return HeldOutScores(
        kind="documents" if is_whole else "lines",
        num_texts=len(token_ids),
        quantiles=tuple(np.round(quantiles, 6).tolist()),
    )


def _encode(
    tokenizer: Tokenizer, texts: Iterable[str], start: list[int], *, backward: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the input of each text, int32 (tokens,), and the number of characters of its scored tokens.

    Texts that follow a start are whole, and end with the end token.
    """
    step, end = -1 if backward else 1, [tokenizer.special.end] if start else []
    found, num_characters, num_tokens = list[np.ndarray](), list[int](), 0
    for text in texts:
        ids = [*start, *tokenizer.encode(text)[::step], *end]
        num_scored = len(text) + len(end) - (0 if start else tokenizer.first_length(text, backward=backward))
        if not 1 < len(ids) <= _MAX_LENGTH or not num_scored:
            continue
        num_tokens += len(ids)
        if len(found) == MAX_SCORED or num_tokens > MAX_TOKENS:
            break
        found.append(np.array(ids, np.int32))
        num_characters.append(num_scored)
    return found, np.array(num_characters)
