"""Encoding of long texts: what was encoded once is looked up.

A text is cut where `contract.tokenizers.chunking` could cut it, at every such place: these segments, mostly a word with
the space before it, repeat, and any unit encodes each by itself as it does within the text.

Knows tokenizers and arrays of ids. Does not know corpora or files.
"""

import re
import sys

import numpy as np

from contract.tokenizer import CharacterTokenizer, Tokenizer

# From white space to before white space. That which is not among `huggingface.CUT`'s begins no segment.
_SEGMENT = re.compile(r"\s*\S+(?:[^\S \t\n]\s*\S+)*(?:[^\S \t\n]\s*\Z)?|\s+")
# Segments that are kept, the first that come: the frequent ones are among them. Some 50 MB.
MAX_SEGMENTS = 1 << 18
# A longer one hardly comes again.
MAX_CHARACTERS = 24


class Encoder:
    """Encodes one text after another."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Begin with nothing looked up.

        Args:
            tokenizer: One of this project's own units.
        """
        self._tokenizer = tokenizer
        # Of as many bytes as the largest id needs.
        self.dtype = np.dtype(np.min_scalar_type(len(tokenizer.tokens) - 1))
        self._segments = _Segments(tokenizer, self.dtype)
        self._by_character = _by_character(tokenizer, self.dtype)

    def encode(self, text: str) -> np.ndarray:
        """Return what the tokenizer makes of a text, (tokens,) of `dtype`."""
        if self._by_character is not None:
            return self._by_character[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        segments = _SEGMENT.findall(text)
        if len(text) > MAX_CHARACTERS * len(segments):
            # Letters without spaces between them: hardly a segment comes again.
            return np.array(self._tokenizer.encode(text), self.dtype)
        return np.frombuffer(b"".join(map(self._segments.__getitem__, segments)), self.dtype)


def _by_character(tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray | None:
    """Return the id of every code point, (code points,): 20 times as fast as a dictionary; None for other units."""
    if not isinstance(tokenizer, CharacterTokenizer) or tokenizer.lower or tokenizer.unknown is None:
        return None
    ids = np.full(sys.maxunicode + 1, tokenizer.special.unknown, dtype)
    for token_id, token in enumerate(tokenizer.tokens):
        if tokenizer.text(token_id):
            ids[ord(token)] = token_id
    return ids


class _Segments(dict[str, bytes]):
    """The ids of segments, as the bytes of an array; of one that is not held they are made."""

    def __init__(self, tokenizer: Tokenizer, dtype: np.dtype) -> None:
        super().__init__()
        self._tokenizer, self._dtype = tokenizer, dtype

    def __missing__(self, segment: str) -> bytes:
        ids = np.array(self._tokenizer.encode(segment), self._dtype).tobytes()
        if len(segment) <= MAX_CHARACTERS and len(self) < MAX_SEGMENTS:
            self[segment] = ids
        return ids
