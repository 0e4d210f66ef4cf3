"""Builds the training filter of a training split, in one pass with bounded memory.

`contract.training_filter` has the hashes and the file.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from contract import bloom_filter, splitmix64
from contract.bloom_filter import BloomFilter
from contract.card import Direction
from contract.tokenizers import Tokenizer, WordTokenizer
from contract.training_filter import DOCUMENTS, MAX_BYTES, SPANS, TrainingFilter, concatenated, polynomials
from export.corpora.corpus import Chunk, Corpus
from export.corpora.documents import SEPARATOR
from export.corpora.encoder import encode_corpus
from export.corpora.memorization import SPAN_WORDS
from export.corpora.spool import BLOCK_BYTES
from export.interrupts import raise_if_interrupted
from export.terminal import ProgressLine

# Documents are short, and thus generated whole, if their mean length in characters is at most this.
SHORT_DOCUMENT_CHARACTERS = 200
# A span is this long on average, in characters: some eight words of English.
SPAN_CHARACTERS = 50
DOCUMENT_FALSE_POSITIVE_RATE = 1e-5
# A text has nearly as many spans as tokens: one of 100 tokens is a false positive as often as a document.
SPAN_FALSE_POSITIVE_RATE = 1e-7
# Tokens whose spans are added at once.
_BLOCK_TOKENS = 1 << 20
_DOING = "building the training filter"


def build_training_filter(
    corpus: Corpus, tokenizer: Tokenizer, direction: Direction = "forward"
) -> TrainingFilter | None:
    """Return the filter of a training split; None if it has too many documents for `MAX_BYTES`."""
    if corpus.ends and corpus.num_characters <= SHORT_DOCUMENT_CHARACTERS * corpus.num_documents:
        if corpus.num_documents > _max_entries(DOCUMENT_FALSE_POSITIVE_RATE):
            return None
        bloom = BloomFilter.sized(corpus.num_documents, DOCUMENT_FALSE_POSITIVE_RATE)
        blocks = _as_generated(corpus.chunks(_DOING), tokenizer) if tokenizer.changes_text else corpus.blocks(_DOING)
        for hashes in _hash_documents(blocks):
            bloom.add(hashes)
            raise_if_interrupted()
        return TrainingFilter(DOCUMENTS, bloom, corpus.num_documents, bloom.false_positive_rate())
    return _of_spans(corpus, tokenizer, direction)


def _max_entries(false_positive_rate: float) -> int:
    return int(8 * MAX_BYTES / bloom_filter.bits_per_entry(false_positive_rate))


def _as_generated(chunks: Iterable[Chunk], tokenizer: Tokenizer) -> Iterator[bytes]:
    """Yield documents in blocks, in the form in which a model generates them, with a zero byte after each."""
    parts, num_characters, joint = list[str](), 0, ""
    for text, is_last in chunks:
        if generated := tokenizer.decode(tokenizer.encode(text)):
            parts += [joint, generated]
            joint = tokenizer.rules.split if isinstance(tokenizer, WordTokenizer) else ""
        if is_last:
            parts.append(SEPARATOR)
            joint = ""
        num_characters += len(text)
        if num_characters >= BLOCK_BYTES:
            yield "".join(parts).encode()
            parts, num_characters = [], 0
    yield "".join(parts).encode()


def _hash_documents(blocks: Iterable[bytes]) -> Iterator[np.ndarray]:
    """Yield the hashes of documents, uint64 (documents,), which zero bytes separate; a document may span blocks."""
    # Polynomial and number of bytes of the part of the current document that is in earlier blocks.
    head, num_bytes = 0, 0
    for block in blocks:
        symbols = np.frombuffer(block, np.uint8)
        ends = np.flatnonzero(symbols == 0)
        starts, stops = np.append(0, ends + 1), np.append(ends, len(symbols))
        parts = polynomials(symbols, starts, stops)
        parts[0] = concatenated(head, num_bytes, int(parts[0]))
        yield splitmix64.mix(parts[:-1])
        head, num_bytes = int(parts[-1]), int(stops[-1] - starts[-1]) + (0 if len(ends) else num_bytes)
    if num_bytes:
        yield splitmix64.mix(np.array([head], np.uint64))


def _of_spans(corpus: Corpus, tokenizer: Tokenizer, direction: Direction) -> TrainingFilter:
    ids, end = encode_corpus(corpus, tokenizer, direction), tokenizer.special.end if corpus.ends else None
    num_tokens = len(ids) - (0 if end is None else corpus.num_documents)
    span_tokens = max(SPAN_WORDS, math.ceil(SPAN_CHARACTERS * num_tokens / corpus.num_characters))
    stride = math.ceil(len(ids) / _max_entries(SPAN_FALSE_POSITIVE_RATE))
    bloom, num_entries = BloomFilter.sized(math.ceil(len(ids) / stride), SPAN_FALSE_POSITIVE_RATE), 0
    with ProgressLine(_DOING, ids.nbytes) as progress:
        for hashes in _hash_spans(ids, end, span_tokens, stride, progress):
            bloom.add(hashes)
            num_entries += len(hashes)
            raise_if_interrupted()
    return TrainingFilter(SPANS, bloom, num_entries, bloom.false_positive_rate(), span_tokens, stride)


def _hash_spans(
    ids: np.ndarray, end: int | None, span_tokens: int, stride: int, progress: ProgressLine
) -> Iterator[np.ndarray]:
    """Yield the hashes of the spans that start at every `stride`-th token and have no end token, uint64 (spans,)."""
    for start in range(0, len(ids), _BLOCK_TOKENS):
        block = ids[start : start + _BLOCK_TOKENS + span_tokens - 1]
        starts = np.arange(-start % stride, len(block) - span_tokens + 1, stride)
        if end is not None:
            num_ends = np.append(0, np.cumsum(block == end))
            starts = starts[num_ends[starts] == num_ends[starts + span_tokens]]
        yield splitmix64.mix(polynomials(block, starts, starts + span_tokens))
        progress.step(block.nbytes)
