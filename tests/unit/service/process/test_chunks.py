"""Chunked bodies: a small body may have chunks of any size, and a large one in small chunks is refused early."""

from types import SimpleNamespace

import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.unreader import IterUnreader

from service.process.chunks import FREE_CHUNKS, MIN_AVERAGE_BYTES, ChunksTooSmall, limit_chunks


def body_of(sizes, read=None):
    """Return a body in chunks of these sizes; `read` counts the bytes that are read from the socket."""
    wire = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"

    def pieces():
        for start in range(0, len(wire), 8192):
            if read is not None:
                read.append(8192)
            yield wire[start : start + 8192]

    request = SimpleNamespace(limit_request_field_size=8190, max_buffer_headers=65536)
    unreader = IterUnreader(pieces())
    request.body = Body(ChunkedReader(request, unreader))
    limit_chunks(request, unreader)
    return request.body


@pytest.mark.parametrize(
    "sizes",
    [[], [1] * (FREE_CHUNKS - 1), [MIN_AVERAGE_BYTES] * (4 << 20 >> 8), [4 << 20], [1 << 20] + [1] * 8000],
    ids=["empty", "free", "smallest average", "one", "large and small"],
)
def test_bodies_of_reasonable_chunks_are_read_whole(sizes):
    """The limit is one of the average size, and the first chunks are not limited."""
    assert body_of(sizes).read() == b"x" * sum(sizes)


def test_a_body_in_tiny_chunks_is_refused_early():
    """Before more than some 40 KB of it are read."""
    read = []
    with pytest.raises(ChunksTooSmall, match=f"{MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}"):
        body_of([1] * 1_000_000, read).read()
    assert sum(read) < 50_000


def test_a_body_with_a_content_length_has_no_limit_of_chunks():
    """Its reader is not replaced."""
    request = SimpleNamespace(body=Body(LengthReader(IterUnreader([b"abc"]), 3)))
    limit_chunks(request, None)
    assert request.body.read() == b"abc"
