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
    encoder, spool, document_start = Encoder(tokenizer), Spool(BLOCK_BYTES), 0
    end_id = tokenizer.special.end if corpus.ends else None
    end = np.array([] if end_id is None else [end_id], encoder.dtype).tobytes()
    for text, ends in corpus.chunks("encoding"):
        ids = encoder.encode(text)
        is_backward, is_whole = direction == "backward", ends and document_start == spool.size
        spool.write((ids[::-1] if is_backward and is_whole else ids).tobytes())
        if ends:
            if is_backward and not is_whole:
                _reverse(spool.map(encoder.dtype, writable=True)[document_start // encoder.dtype.itemsize :])
            spool.write(end)
            document_start = spool.size
    return spool.map(encoder.dtype)


def _reverse(ids: np.ndarray) -> None:
    """Reverse ids in place, from both ends."""
    for start in range(0, len(ids) // 2, _REVERSE_BLOCK):
        stop = min(start + _REVERSE_BLOCK, len(ids) // 2)
        front, back = ids[start:stop], ids[len(ids) - stop : len(ids) - start]
        front[:], back[:] = back[::-1].copy(), front[::-1].copy()
