"""Memorization: n-gram overlap of generated text with the training text, which is scanned once, chunk by chunk."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from contract.training_filter import polynomials
from export.corpora.corpus import Chunk
from export.interrupts import raise_if_interrupted

SPAN_WORDS = 8
# With fewer, the share would be noise.
MIN_SPANS = 50
_UNKNOWN = -1

Words = Callable[[str], list[str]]


@dataclass(frozen=True)
class Memorization:
    """The n-gram overlap."""

    num_spans: int  # generated runs of `SPAN_WORDS` words
    num_copied: int  # those that occur in the training text

    @property
    def share(self) -> float | None:
        """Share of copied runs; None if there are fewer than `MIN_SPANS`."""
        return self.num_copied / self.num_spans if self.num_spans >= MIN_SPANS else None


def find_memorized_spans(
    generated: Iterable[str], training_text: Iterable[Chunk], words: Words = str.split
) -> Memorization:
    """Search the training text for generated n-grams.

    The first and last word of each generated text are ignored: they may be incomplete. The chunks of the training text
    split no word; runs do not cross document boundaries. `words` splits both into normalized words.
    """
    word_ids = dict[str, int]()
    texts = [[word_ids.setdefault(word, len(word_ids)) for word in words(text)[1:-1]] for text in generated]
    spans = [tuple(text[i : i + SPAN_WORDS]) for text in texts for i in range(len(text) - SPAN_WORDS + 1)]
    if len(spans) < MIN_SPANS:
        return Memorization(len(spans), 0)
    span_hashes = np.unique(_hashes(np.array(spans).ravel())[::SPAN_WORDS])
    copied = set[tuple[int, ...]]()
    for ids in _to_word_ids(training_text, words, word_ids):
        hashes = _hashes(ids)
        indices = np.minimum(np.searchsorted(span_hashes, hashes), len(span_hashes) - 1)
        candidates = np.flatnonzero(span_hashes[indices] == hashes)
        copied.update(tuple(ids[i : i + SPAN_WORDS].tolist()) for i in candidates)
        raise_if_interrupted()
    return Memorization(len(spans), sum(span in copied for span in spans))


def _to_word_ids(training_text: Iterable[Chunk], words: Words, word_ids: dict[str, int]) -> Iterator[np.ndarray]:
    """Yield the word ids of each chunk, int64, preceded by the last words of the previous chunk of the document."""
    overlap = np.empty(0, np.int64)
    for text, ends in training_text:
        ids = np.concatenate([overlap, np.array([word_ids.get(word, _UNKNOWN) for word in words(text)], np.int64)])
        yield ids
        overlap = ids[len(ids) :] if ends else ids[-(SPAN_WORDS - 1) :]


def _hashes(ids: np.ndarray) -> np.ndarray:
    """Hash each run of `SPAN_WORDS` words: int64 (words,) to uint64 (words - SPAN_WORDS + 1,).

    Matches are verified word by word.
    """
    starts = np.arange(max(0, len(ids) - SPAN_WORDS + 1))
    return polynomials(ids, starts, starts + SPAN_WORDS)
