"""Bits per character: a loss per token made comparable between characters, words and pieces of words.

Every unit is charged for the same text, so on one split of a corpus the figures of two models can be compared:

- A token stands for its own characters. Of a piece of a word these are the bytes that begin a character, so the pieces
  of a text have as many characters as the text.
- A word by Keras's rules stands for itself and the space behind it. Case, punctuation and line ends, which such a model
  never predicts, are not counted either.
- An end mark is one character, as the line end is that stands in its place in a running text.
- What is unknown is left out on both sides: it has no part in the loss, and its characters are not counted. A model
  that knows less is judged by less of the text, and the share of it has to be told beside the figure.
"""

import math

import numpy as np

from contract.tokenizer import SubwordTokenizer, Tokenizer, WordTokenizer
from export.corpora.spool import blocks

_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80


def count_characters(tokenizer: Tokenizer, token_ids: np.ndarray) -> int:
    """Count what tokens stand for, unknown ones left out, in any order of reading.

    Args:
        tokenizer: One that was trained here.
        token_ids: integers (tokens,).
    """
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


def bits_per_character(loss: float | None, num_tokens: int, num_characters: int | None) -> float | None:
    """Return the bits that a character costs.

    Args:
        loss: Nats per token; None where nothing is held out.
        num_tokens: Tokens that it is the mean over.
        num_characters: What they stand for; None where that is not known.
    """
    if loss is None or not num_characters:
        return None
    return loss * num_tokens / math.log(2) / num_characters


def characters_of_loss(loss: float, num_tokens: int, bits: float | None) -> int | None:
    """Return how many characters `bits_per_character` was given; None where it was not known."""
    return round(loss * num_tokens / math.log(2) / bits) if bits else None
