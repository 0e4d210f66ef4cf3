"""External shuffle of documents by a seed, so that the validation split is a random sample, whatever their order.

A corpus may be larger than memory. Documents are partitioned into bucket files by the first bits of their sort keys.
Each bucket is small and is sorted in memory. The order depends only on the seed and the index of a document, not on the
bucket size or a library's random generator: a run that is resumed years later gets the same validation split.

Knows documents and files. Does not know the split.
"""

import codecs
from collections.abc import Iterator

import numpy as np

from contract import splitmix64
from export.corpora.documents import SEPARATOR
from export.corpora.progress import ProgressLine
from export.corpora.spool import BLOCK_BYTES, Spool
from export.corpora.text import Text, TextWriter

# Target size of a bucket, which is sorted in memory, and log2 of the maximum number of buckets.
BUCKET_BYTES, MAX_BUCKET_BITS = 16 << 20, 8
# Number of keys per computation, of characters per write, and of bytes that each file of a bucket buffers.
_CHUNK, _BATCH_CHARACTERS, _BUFFER_BYTES = 1 << 16, 1 << 16, 1 << 16
_ZERO = SEPARATOR.encode()


def shuffle_documents(text: Text, seed: int) -> Text:
    """Return the same documents in an order determined by the seed."""
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
    """Yield the shuffled documents in parts, with `SEPARATOR` after each."""
    num_bytes = text.stop.byte - text.start.byte
    bits = min(MAX_BUCKET_BITS, max(0, -(-num_bytes // BUCKET_BYTES) - 1).bit_length())
    if not bits:
        data = text.spool.map(np.dtype(np.uint8))[text.start.byte : text.stop.byte]
        yield from _sorted(data, _keys(seed, 0, text.num_documents))
        return
    for bucket in _partition(text, seed, bits):
        yield from bucket.in_order()


def _keys(seed: int, start: int, stop: int) -> np.ndarray:
    """Return the sort keys of some documents, uint64 (stop - start,); keys of one seed are distinct."""
    origin = splitmix64.mix(np.array([seed], np.uint64) + splitmix64.STEP)
    return splitmix64.mix(origin + (np.arange(start, stop, dtype=np.uint64) + np.uint64(1)) * splitmix64.STEP)


def _sorted(data: np.ndarray, keys: np.ndarray) -> Iterator[str]:
    """Yield the documents in ascending order of keys, uint64 (documents,), in parts, with `SEPARATOR` after each.

    The data are the documents in UTF-8, uint8 (bytes,), separated by zero bytes.
    """
    ends = np.append(np.flatnonzero(data == 0), len(data))
    starts = np.append(0, ends[:-1] + 1)
    for i in np.argsort(keys):
        decoder, end = codecs.getincrementaldecoder("utf-8")(), int(ends[i])
        for start in range(int(starts[i]), end, BLOCK_BYTES):
            yield decoder.decode(data[start : min(start + BLOCK_BYTES, end)].tobytes())
        yield SEPARATOR


class _Bucket:
    """A bucket file of documents whose keys share their first bits."""

    def __init__(self) -> None:
        self._documents, self._keys = Spool(_BUFFER_BYTES), Spool(_BUFFER_BYTES)

    def begin(self, key: int, part: bytes) -> None:
        """Begin a new document with its first part."""
        self._documents.write(_ZERO + part if self._keys.size else part)
        self._keys.write(key.to_bytes(8, "little"))

    def append(self, part: bytes) -> None:
        """Append a part to the current document."""
        self._documents.write(part)

    def in_order(self) -> Iterator[str]:
        """Yield the documents in ascending order of keys, in parts, with `SEPARATOR` after each."""
        if self._keys.size:
            yield from _sorted(self._documents.map(np.dtype(np.uint8)), self._keys.map(np.dtype("<u8")))


def _partition(text: Text, seed: int, bits: int) -> list[_Bucket]:
    """Write each document into the bucket of the first bits of its key."""
    buckets, keys = [_Bucket() for _ in range(1 << bits)], _every_key(seed)

    def begin(part: bytes) -> _Bucket:
        key = next(keys)
        bucket = buckets[key >> (64 - bits)]
        bucket.begin(key, part)
        return bucket

    bucket = begin(b"")
    with ProgressLine("shuffling", text.stop.byte - text.start.byte) as progress:
        for block in text.blocks(progress):
            rest, *others = block.split(_ZERO)
            bucket.append(rest)
            for part in others:
                bucket = begin(part)
    return buckets


def _every_key(seed: int) -> Iterator[int]:
    start = 0
    while True:
        yield from _keys(seed, start, start + _CHUNK).tolist()
        start += _CHUNK
