"""Documents in an order that is drawn from a seed: so what is held out is a sample of all, whatever order they came in.

A corpus may be larger than memory. Its documents are dealt out to files by the first bits of their keys, and each file,
which is small, is put in order by itself. The order depends on the seed and the number of a document alone: not on the
size of the files, nor on a library's generator, so a run that is resumed years later holds out the same.

Knows documents and files. Does not know what is held out.
"""

import codecs
from collections.abc import Iterator

import numpy as np

from export.corpora.documents import MARK
from export.corpora.progress import ProgressLine
from export.corpora.spool import BLOCK_BYTES, Spool
from export.corpora.text import Text, TextWriter

# Of a file that is put in order in memory, and how many files there are at most.
BUCKET_BYTES, MAX_BUCKET_BITS = 16 << 20, 8
# Keys that are computed at once, and characters that are written at once.
_CHUNK, _BATCH_CHARACTERS = 1 << 16, 1 << 16
_ZERO = MARK.encode()
# SplitMix64 (Steele, Lea and Flood 2014): a fixed function of 64 bits, each output once.
_STEP, _MIX = np.uint64(0x9E3779B97F4A7C15), (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def shuffle_documents(text: Text, seed: int) -> Text:
    """Return the same documents in an order that follows from the seed.

    Raises:
        CorpusError: the disk did not take them.
    """
    writer, batch, size = TextWriter(), list[str](), 0
    for part in _in_order(text, seed):
        batch.append(part)
        size += len(part)
        if size >= _BATCH_CHARACTERS:
            writer.write("".join(batch))
            batch, size = [], 0
    writer.write("".join(batch))
    shuffled = writer.text()
    assert shuffled is not None, "documents are not blank"
    return shuffled


def _in_order(text: Text, seed: int) -> Iterator[str]:
    """Yield the documents in parts, with a mark behind each."""
    num_bytes = text.stop.byte - text.start.byte
    bits = min(MAX_BUCKET_BITS, max(0, -(-num_bytes // BUCKET_BYTES) - 1).bit_length())
    if not bits:
        data = text.scratch.map(np.dtype(np.uint8))[text.start.byte : text.stop.byte]
        yield from _sorted(data, _keys(seed, 0, text.num_documents))
        return
    for bucket in _deal_out(text, seed, bits):
        yield from bucket.in_order()


def _keys(seed: int, start: int, stop: int) -> np.ndarray:
    """Return what some documents are sorted by, uint64 (stop - start,), no two of one seed alike."""
    origin = _mixed(np.array([seed], np.uint64) + _STEP)
    return _mixed(origin + (np.arange(start, stop, dtype=np.uint64) + np.uint64(1)) * _STEP)


def _mixed(z: np.ndarray) -> np.ndarray:
    for shift, factor in zip((30, 27), _MIX, strict=True):
        z = (z ^ (z >> np.uint64(shift))) * factor
    return z ^ (z >> np.uint64(31))


def _sorted(data: np.ndarray, keys: np.ndarray) -> Iterator[str]:
    """Yield documents by rising keys, in parts, with a mark behind each.

    Args:
        data: uint8 (bytes,). The documents in UTF-8, with a zero between two.
        keys: uint64 (documents,).
    """
    ends = np.append(np.flatnonzero(data == 0), len(data))
    starts = np.append(0, ends[:-1] + 1)
    for i in np.argsort(keys):
        decoder, end = codecs.getincrementaldecoder("utf-8")(), int(ends[i])
        for start in range(int(starts[i]), end, BLOCK_BYTES):
            yield decoder.decode(data[start : min(start + BLOCK_BYTES, end)].tobytes())
        yield MARK


class _Bucket:
    """Documents whose keys share their first bits."""

    def __init__(self) -> None:
        self._documents, self._keys = Spool(), Spool()
        self._held, self._held_keys, self._num_held = list[bytes](), list[np.uint64](), 0

    def begin(self, key: np.uint64) -> None:
        """Begin another document."""
        if self._held_keys or self._keys.size:
            self.go_on(_ZERO)
        self._held_keys.append(key)

    def go_on(self, part: bytes) -> None:
        """Go on with a document."""
        self._held.append(part)
        self._num_held += len(part)
        if self._num_held >= _CHUNK or len(self._held) >= _CHUNK:
            self._flush()

    def _flush(self) -> None:
        self._documents.write(b"".join(self._held))
        self._keys.write(np.array(self._held_keys, np.uint64).tobytes())
        self._held, self._held_keys, self._num_held = [], [], 0

    def in_order(self) -> Iterator[str]:
        """Yield the documents by rising keys, in parts, with a mark behind each."""
        self._flush()
        if self._keys.size:
            yield from _sorted(self._documents.map(np.dtype(np.uint8)), self._keys.map(np.dtype(np.uint64)))


def _deal_out(text: Text, seed: int, bits: int) -> list[_Bucket]:
    """Write each document into the file that the first bits of its key name."""
    buckets, keys = [_Bucket() for _ in range(1 << bits)], _every_key(seed)

    def begin() -> _Bucket:
        key = next(keys)
        bucket = buckets[int(key) >> (64 - bits)]
        bucket.begin(key)
        return bucket

    bucket = begin()
    with ProgressLine("shuffling", text.stop.byte - text.start.byte) as waiting:
        for block in text.blocks(waiting):
            first, *others = block.split(_ZERO)
            bucket.go_on(first)
            for part in others:
                bucket = begin()
                bucket.go_on(part)
    return buckets


def _every_key(seed: int) -> Iterator[np.uint64]:
    start = 0
    while True:
        yield from _keys(seed, start, start + _CHUNK)
        start += _CHUNK
