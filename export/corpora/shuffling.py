"""External shuffle of documents by a seed, so that the validation split is a random sample, whatever their order.

A corpus may be larger than memory. Documents are partitioned into bucket files by the first bits of their sort keys.
Each bucket is small and is sorted in memory. The order depends only on the seed and the index of a document, not on the
bucket size or a library's random generator: a run that is resumed years later gets the same validation split.

Knows documents and files. Does not know the split.
"""

import codecs
import itertools
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
    for documents, keys in _partition(text, seed, bits):
        if keys.size:
            yield from _sorted(documents.map(np.dtype(np.uint8)), keys.map(np.dtype("<u8")))


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


def _partition(text: Text, seed: int, bits: int) -> list[tuple[Spool, Spool]]:
    """Write each document into the bucket of the first bits of its key; return documents and keys of each bucket."""
    buckets = [(Spool(_BUFFER_BYTES), Spool(_BUFFER_BYTES)) for _ in range(1 << bits)]
    blocks = (_keys(seed, start, start + _CHUNK).tolist() for start in itertools.count(step=_CHUNK))
    keys = itertools.chain.from_iterable(blocks)

    def begin(part: bytes) -> Spool:
        key = next(keys)
        documents, own_keys = buckets[key >> (64 - bits)]
        documents.write(_ZERO + part if own_keys.size else part)
        own_keys.write(key.to_bytes(8, "little"))
        return documents

    documents = begin(b"")
    with ProgressLine("shuffling", text.stop.byte - text.start.byte) as progress:
        for block in text.blocks(progress):
            rest, *others = block.split(_ZERO)
            documents.write(rest)
            for part in others:
                documents = begin(part)
    return buckets
