"""Bits per character: the loss per token, made comparable between character, word and subword tokenizers.

All units are normalized by the same text, so that two models are comparable on the same validation split:

- A token counts as its own characters. For a subword these are the bytes that begin a character, so the subwords of a
  text have as many characters as the text.
- A word by Keras's rules counts as itself and the following space. Case, punctuation and line breaks, which such a
  model never predicts, are not counted either.
- An end token is one character, like the line break in its place in a running text.
- Unknown tokens are excluded on both sides: from the loss and from the character count. A model with a smaller
  vocabulary is evaluated on less of the text, so report that share beside the result.
"""

import math

import numpy as np

from contract.tokenizers import SubwordTokenizer, Tokenizer, WordTokenizer
from export.corpora.spool import blocks

_CONTINUATION_MASK, _CONTINUATION = 0xC0, 0x80


def count_tokens(token_ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return the frequency of each id, int64 (vocab,); reads memory-mapped ids block by block."""
    counts = (np.bincount(block, minlength=vocab_size) for block in blocks(token_ids))
    return sum(counts, np.zeros(vocab_size, np.int64))


def count_characters(tokenizer: Tokenizer, token_ids: np.ndarray) -> int:
    """Count the characters of tokens in any order, without unknown ones; not for imported tokenizers."""
    counts = count_tokens(token_ids, len(tokenizer.tokens))
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
