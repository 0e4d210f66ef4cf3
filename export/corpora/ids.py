"""The token ids of a corpus in an unnamed, memory-mapped temporary file: only pages in use are in memory.

Knows corpora, tokenizers and directions. Does not know training.
"""

import numpy as np

from contract.card import Direction
from contract.tokenizer import Tokenizer
from export.corpora.corpus import Corpus
from export.corpora.encoder import Encoder
from export.corpora.spool import BLOCK_BYTES, Spool

# Number of ids to reverse at a time.
_REVERSE_BLOCK = 1 << 18


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, direction: Direction = "forward") -> np.ndarray:
    """Return the ids of a corpus, (tokens,), with an end token after each document if `corpus.ends`.

    For a backward model each document is reversed; its end token then marks the beginning of the document. The ids are
    unsigned integers of the smallest dtype that holds every one, memory-mapped from a file.
    """
    writer = _IdsWriter(Encoder(tokenizer), tokenizer.special.end if corpus.ends else None, direction)
    for text, ends in corpus.chunks("encoding"):
        writer.write(text, ends=ends)
    return writer.finish()


class _IdsWriter:
    """A writer of token ids that takes text chunk by chunk."""

    def __init__(self, encoder: Encoder, end_id: int | None, direction: Direction) -> None:
        self._encoder, self._backward = encoder, direction == "backward"
        self._end = np.array([] if end_id is None else [end_id], encoder.dtype)
        self._spool, self._document_start = Spool(BLOCK_BYTES), 0

    def write(self, text: str, *, ends: bool) -> None:
        ids = self._encoder.encode(text)
        is_whole = ends and self._document_start == self._position
        self._spool.write((ids[::-1] if is_whole and self._backward else ids).tobytes())
        if ends:
            if self._backward and not is_whole:
                self._reverse_document()
            self._spool.write(self._end.tobytes())
            self._document_start = self._position

    def finish(self) -> np.ndarray:
        return self._spool.map(self._encoder.dtype)

    @property
    def _position(self) -> int:
        """Number of ids so far."""
        return self._spool.size // self._encoder.dtype.itemsize

    def _reverse_document(self) -> None:
        """Reverse the last document of the file in place, from both ends."""
        ids = self._spool.map(self._encoder.dtype, writable=True)[self._document_start :]
        for start in range(0, len(ids) // 2, _REVERSE_BLOCK):
            stop = min(start + _REVERSE_BLOCK, len(ids) // 2)
            front, back = ids[start:stop], ids[len(ids) - stop : len(ids) - start]
            front_copy = front.copy()
            front[:] = back[::-1]
            back[:] = front_copy[::-1]
