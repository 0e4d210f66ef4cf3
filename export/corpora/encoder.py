"""Encoding of a corpus to token ids in an unnamed, memory-mapped temporary file: only pages in use are in memory.

Text is split at every boundary that `contract.tokenizers.huggingface` could use. The segments, mostly a word with its
leading space, are cached: they repeat, and most units encode a segment alone as within the text. Tokens of regular
expressions may cross spaces, and so may words by imported rules.
"""

import re
import sys
from functools import lru_cache

import numpy as np

from contract.card import Direction
from contract.tokenizers import CharacterTokenizer, RegexTokenizer, Tokenizer, WordTokenizer
from export.corpora.corpus import Corpus
from export.corpora.spool import Spool

# From white space up to the next white space. White space at which `huggingface` does not cut begins no segment.
_SEGMENT = re.compile(r"\s*\S+(?:[^\S \t\n]\s*\S+)*(?:[^\S \t\n]\s*\Z)?|\s+")
# Cache size: about 50 MB.
MAX_SEGMENTS = 1 << 18
# Text without spaces has longer segments on average, which rarely repeat.
MAX_CHARACTERS = 24
# Number of ids to reverse at a time.
_REVERSE_BLOCK = 1 << 18


def encode_corpus(
    corpus: Corpus, tokenizer: Tokenizer, direction: Direction = "forward", labels: np.ndarray | None = None
) -> np.ndarray:
    """Return the ids of a corpus, (tokens,), with an end token after each document if `corpus.ends`.

    For a backward model each document is reversed; its end token then marks the beginning of the document. In both
    directions its `labels`, integers (documents, columns), come first. The ids are unsigned integers of the smallest
    dtype that holds every one, memory-mapped from a file, and writable if there are labels.
    """
    encoder, spool, document_start, number = Encoder(tokenizer), Spool(), 0, 0
    openings = None if labels is None else labels.astype(encoder.dtype)
    end_id = tokenizer.special.end if corpus.ends else None
    end = np.array([] if end_id is None else [end_id], encoder.dtype).tobytes()
    has_begun = False
    for text, ends in corpus.chunks("encoding"):
        if not has_begun and openings is not None:
            spool.write(openings[number].tobytes())
            document_start = spool.size
        ids = encoder.encode(text)
        has_begun = not ends
        is_backward, is_whole = direction == "backward", ends and document_start == spool.size
        spool.write((ids[::-1] if is_backward and is_whole else ids).tobytes())
        if ends:
            if is_backward and not is_whole:
                _reverse(spool.map(encoder.dtype, writable=True)[document_start // encoder.dtype.itemsize :])
            spool.write(end)
            document_start, number = spool.size, number + 1
    return spool.map(encoder.dtype, writable=labels is not None)


def _reverse(ids: np.ndarray) -> None:
    """Reverse ids in place, from both ends."""
    for start in range(0, len(ids) // 2, _REVERSE_BLOCK):
        stop = min(start + _REVERSE_BLOCK, len(ids) // 2)
        front, back = ids[start:stop], ids[len(ids) - stop : len(ids) - start]
        front[:], back[:] = back[::-1].copy(), front[::-1].copy()


class Encoder:
    """An encoder of many texts with one tokenizer, which is not an imported one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # The smallest dtype that holds every id.
        self.dtype = np.dtype(np.min_scalar_type(len(tokenizer.tokens) - 1))
        self._encode_segment = lru_cache(MAX_SEGMENTS)(self._encode)
        self._by_character = _by_character(tokenizer, self.dtype)
        # Imported rules need not separate words at white space.
        self._has_segments = not isinstance(tokenizer, RegexTokenizer) and (
            not isinstance(tokenizer, WordTokenizer) or len(tokenizer.rules.words("a b\tc\nd")) == 4
        )

    def encode(self, text: str) -> np.ndarray:
        """Return the ids of a text, (tokens,) of `dtype`."""
        if self._by_character is not None:
            return self._by_character[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
        segments = _SEGMENT.findall(text) if self._has_segments else []
        if len(text) > MAX_CHARACTERS * len(segments):
            return np.frombuffer(self._encode(text), self.dtype)
        return np.frombuffer(b"".join(map(self._encode_segment, segments)), self.dtype)

    def _encode(self, text: str) -> bytes:
        return np.array(self._tokenizer.encode(text), self.dtype).tobytes()


def _by_character(tokenizer: Tokenizer, dtype: np.dtype) -> np.ndarray | None:
    """Return a table of ids by code point, 20 times as fast as a dictionary; None for units other than characters."""
    # Lower-casing depends on the context, and standardization drops characters.
    if not isinstance(tokenizer, CharacterTokenizer) or tokenizer.unknown is None or tokenizer.changes_text:
        return None
    ids = np.full(sys.maxunicode + 1, tokenizer.special.unknown, dtype)
    for token_id, token in enumerate(tokenizer.tokens):
        if tokenizer.decode([token_id]):
            ids[ord(token)] = token_id
    return ids
