"""How much of what a model writes it has by heart: runs of words that stand literally in the training text.

Knows words and texts. The training text may be large: only what was written is kept, and the text is gone through once.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from export.corpora.text import Piece

SPAN_WORDS = 8
# Of fewer the share would be noise.
MIN_SPANS = 50
_UNKNOWN = -1
# Odd, with well mixed bits; what agrees by chance is compared word by word.
_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Words = Callable[[str], list[str]]


@dataclass(frozen=True)
class Memorization:
    """What was found.

    Attributes:
        num_spans: Runs of `SPAN_WORDS` words that were written.
        num_copied: Of these, those that stand in the training text.
    """

    num_spans: int
    num_copied: int

    @property
    def share(self) -> float | None:
        """Share of copied runs; None where there are too few to tell."""
        return self.num_copied / self.num_spans if self.num_spans >= MIN_SPANS else None


def find_memorized_spans(
    written: Iterable[str],
    learnt: Iterable[Piece],
    words: Words = str.split,
    raise_if_interrupted: Callable[[], None] = lambda: None,
) -> Memorization:
    """Look for what was written in the training text.

    Args:
        written: Texts. The first and the last word of each may be cut, and do not count.
        learnt: The training text, in pieces that no word reaches out of; no run reaches over the end of a document.
        words: Cuts both into words, in the form in which they are compared.
        raise_if_interrupted: Called between two steps; what it raises ends the search.
    """
    numbers = dict[str, int]()
    texts = [[numbers.setdefault(word, len(numbers)) for word in words(text)[1:-1]] for text in written]
    spans = [tuple(text[i : i + SPAN_WORDS]) for text in texts for i in range(len(text) - SPAN_WORDS + 1)]
    if len(spans) < MIN_SPANS:
        return Memorization(len(spans), 0)
    wanted = np.unique(_hashes(np.array(spans).ravel())[::SPAN_WORDS])
    found = set[tuple[int, ...]]()
    for ids in _numbered(learnt, words, numbers):
        hashes = _hashes(ids)
        places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        candidates = np.flatnonzero(wanted[places] == hashes)
        found.update(tuple(ids[i : i + SPAN_WORDS].tolist()) for i in candidates)
        raise_if_interrupted()
    return Memorization(len(spans), sum(span in found for span in spans))


def _numbered(learnt: Iterable[Piece], words: Words, numbers: dict[str, int]) -> Iterator[np.ndarray]:
    """Yield each piece's words as numbers, int64, with the words of its document that ended the one before."""
    before = np.empty(0, np.int64)
    for text, ends in learnt:
        ids = np.concatenate([before, np.array([numbers.get(word, _UNKNOWN) for word in words(text)], np.int64)])
        yield ids
        before = ids[len(ids) :] if ends else ids[-(SPAN_WORDS - 1) :]


def _hashes(ids: np.ndarray) -> np.ndarray:
    """Hash each run of words: int64 (words,) to uint64 (words - SPAN_WORDS + 1,)."""
    count = max(0, len(ids) - SPAN_WORDS + 1)
    ids, hashes = ids.astype(np.uint64), np.zeros(count, np.uint64)
    for i in range(SPAN_WORDS):
        hashes = hashes * _FACTOR + ids[i : i + count]
    return hashes
