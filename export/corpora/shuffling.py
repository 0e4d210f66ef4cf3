"""External shuffle of documents by a seed, so that the validation split is a random sample, whatever their order.

A corpus may be larger than memory. Documents are partitioned into bucket files by the first bits of their sort keys.
Each bucket is small and is sorted in memory. The order depends only on the seed and the index of a document, not on the
bucket size or a library's random generator: a run that is resumed years later gets the same validation split.
"""

import itertools
from collections.abc import Iterable

import numpy as np

from contract import splitmix64
from export.corpora.spool import BLOCK_BYTES, Spool, blocks

# Target size of a bucket, which is sorted in memory, and log2 of the maximum number of buckets.
BUCKET_BYTES, MAX_BUCKET_BITS = 16 << 20, 8
# Number of keys per computation, and of bytes that each file of a bucket buffers.
_CHUNK, _BUFFER_BYTES = 1 << 16, 1 << 16
_ZERO = b"\0"


def shuffle_documents(content: Iterable[bytes], num_bytes: int, seed: int) -> Spool:
    """Return documents in an order determined by the seed; the content is UTF-8, in which zero bytes separate them."""
    bits = min(MAX_BUCKET_BITS, max(0, -(-num_bytes // BUCKET_BYTES) - 1).bit_length())
    shuffled = Spool(BLOCK_BYTES)
    for documents, keys in _partition(content, seed, bits):
        data = documents.map(np.dtype(np.uint8))
        ends = np.append(np.flatnonzero(data == 0), len(data))
        starts = np.append(0, ends[:-1] + 1)
        for i in np.argsort(keys.map(np.dtype("<u8"))):
            if shuffled.size:
                shuffled.write(_ZERO)
            for part in blocks(data[starts[i] : ends[i]]):
                shuffled.write(part.tobytes())
    return shuffled


def _keys(seed: int, start: int, stop: int) -> np.ndarray:
    """Return the sort keys of some documents, uint64 (stop - start,); keys of one seed are distinct."""
    origin = splitmix64.mix(np.array([seed], np.uint64) + splitmix64.STEP)
    return splitmix64.mix(origin + (np.arange(start, stop, dtype=np.uint64) + np.uint64(1)) * splitmix64.STEP)


def _partition(content: Iterable[bytes], seed: int, bits: int) -> list[tuple[Spool, Spool]]:
    """Write each document into the bucket of the first bits of its key; return documents and keys of each bucket."""
    buckets = [(Spool(_BUFFER_BYTES), Spool(_BUFFER_BYTES)) for _ in range(1 << bits)]
    chunks = (_keys(seed, start, start + _CHUNK).tolist() for start in itertools.count(step=_CHUNK))
    keys = itertools.chain.from_iterable(chunks)

    def begin(part: bytes) -> Spool:
        key = next(keys)
        documents, own_keys = buckets[key >> (64 - bits)]
        documents.write(_ZERO + part if own_keys.size else part)
        own_keys.write(key.to_bytes(8, "little"))
        return documents

    documents = begin(b"")
    for block in content:
        rest, *others = block.split(_ZERO)
        documents.write(rest)
        for part in others:
            documents = begin(part)
    return buckets
