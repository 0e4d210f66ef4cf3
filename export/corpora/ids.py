"""The token ids of a corpus, in a file without a name: memory holds what is in use of them.

Knows corpora, tokenizers and directions. Does not know what is learnt from the ids.
"""

import numpy as np

from contract.card import Direction
from contract.tokenizer import Tokenizer
from export.corpora.corpus import Corpus
from export.corpora.encoder import Encoder
from export.corpora.spool import BLOCK_BYTES, Spool

# Ids that are turned around at once.
_TURNED = 1 << 18


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, direction: Direction = "forward") -> np.ndarray:
    """Return the ids of a corpus, (tokens,), each document followed by the end mark if documents end.

    A backward model reads each document from its end; then the mark stands for the document's beginning.

    Returns:
        Unsigned integers of as many bytes as the largest id needs, mapped from a file.
    """
    writer = _Writer(Encoder(tokenizer), tokenizer.special.end if corpus.ends else None, direction)
    for text, ends in corpus.pieces("encoding"):
        writer.write(text, ends=ends)
    return writer.finish()


class _Writer:
    """Writes ids piece by piece."""

    def __init__(self, encoder: Encoder, mark: int | None, direction: Direction) -> None:
        self._encoder, self._backward = encoder, direction == "backward"
        self._mark = np.array([] if mark is None else [mark], encoder.dtype)
        self._scratch = Spool()
        # What is not in the file yet, its bytes, and where the document began that is being written.
        self._held: list[np.ndarray] = []
        self._num_held, self._document = 0, 0

    def write(self, text: str, *, ends: bool) -> None:
        ids = self._encoder.encode(text)
        is_whole = ends and self._document == self._place
        self._append(ids[::-1] if is_whole and self._backward else ids)
        if ends:
            if self._backward and not is_whole:
                self._flush()
                self._turn_around()
            self._append(self._mark)
            self._document = self._place

    def finish(self) -> np.ndarray:
        self._flush()
        return self._scratch.map(self._encoder.dtype)

    @property
    def _place(self) -> int:
        """Ids so far."""
        return (self._scratch.size + self._num_held) // self._encoder.dtype.itemsize

    def _append(self, ids: np.ndarray) -> None:
        self._held.append(ids)
        self._num_held += ids.nbytes
        if self._num_held >= BLOCK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._num_held:
            self._scratch.write(np.concatenate(self._held).tobytes())
        self._held, self._num_held = [], 0

    def _turn_around(self) -> None:
        """Reverse the document at the end of the file, from both of its ends."""
        ids = self._scratch.map(self._encoder.dtype, writable=True)[self._document :]
        for start in range(0, len(ids) // 2, _TURNED):
            stop = min(start + _TURNED, len(ids) // 2)
            front, back = ids[start:stop], ids[len(ids) - stop : len(ids) - start]
            kept = front.copy()
            front[:] = back[::-1]
            back[:] = kept[::-1]
