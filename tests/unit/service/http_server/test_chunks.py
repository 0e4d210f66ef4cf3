"""Chunked bodies: their end is found wherever the bytes are divided; large ones in small chunks are refused early."""

from types import SimpleNamespace

import pytest
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.unreader import IterUnreader

from service.errors import BodyTooLarge, InvalidRequest
from service.http_server.connection import FREE_CHUNKS, MIN_AVERAGE_BYTES, ChunkScanner

MAX_BODY_BYTES = 4 << 20


def in_chunks(sizes):
    return b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"


def num_scanned(wire, step):
    """Return how many bytes have arrived, a few at a time, when the scanner finds the body complete."""
    scanner, received = ChunkScanner(MAX_BODY_BYTES), bytearray()
    for start in range(0, len(wire), step):
        received += wire[start : start + step]
        if scanner.is_complete(received):
            return len(received)
    return None


def read_by_gunicorn(wire):
    """Return the body as gunicorn's reader sees it, or None if it finds an error."""
    request = SimpleNamespace(
        limit_request_field_size=8190, max_buffer_headers=65536, parse_headers=lambda data, from_trailer: []
    )
    try:
        return ChunkedReader(request, IterUnreader([wire])).read(1 << 30)
    except (NoMoreData, ParseException):
        return None


@pytest.mark.parametrize(
    "sizes",
    [[], [1] * (FREE_CHUNKS - 1), [MIN_AVERAGE_BYTES] * (4 << 20 >> 8), [4 << 20], [1 << 20] + [1] * 8000],
    ids=["empty", "free", "smallest average", "one", "large and small"],
)
def test_bodies_of_reasonable_chunks_are_complete_at_their_end(sizes):
    """The limit is one of the average size, and the first chunks are not limited."""
    wire = in_chunks(sizes)
    assert num_scanned(wire, 50_000) == len(wire)


@pytest.mark.parametrize(
    "wire",
    [
        b"3\r\nabc\r\n0\r\n\r\n",
        b"003\r\nabc\r\n000\r\n\r\n",
        b"A;name=value\r\n0\r\n\r\n0\r\n\r\n\r\n0;x\r\n\r\n",
        b"3 ;x\r\nabc\r\n0\r\nX: y\r\nY: z\r\n\r\n",
    ],
    ids=["plain", "leading zeros", "chunk that looks like the end", "trailers"],
)
def test_the_end_is_found_wherever_the_bytes_are_divided(wire):
    assert read_by_gunicorn(wire)
    assert [read_by_gunicorn(wire[:cut]) for cut in range(len(wire))] == [None] * len(wire)
    assert {num_scanned(wire, step) for step in (1, len(wire))} == {len(wire)}


@pytest.mark.parametrize(
    "wire",
    [b"\r\n", b"zz\r\n", b"-1\r\n", b"0x3\r\n", b"3 \r\n", b"3_0\r\n", b"3\r\nabcX0\r\n\r\n", b"1" * 9000],
    ids=["empty", "letters", "negative", "prefix", "blank", "underscore", "no end of chunk", "long line"],
)
def test_a_malformed_body_is_complete_at_its_error(wire):
    """Gunicorn's reader finds the error without waiting for more."""
    assert num_scanned(wire, 1000) is not None
    assert read_by_gunicorn(wire) is None


def test_a_body_in_tiny_chunks_is_refused_early():
    wire = in_chunks([1] * 1_000_000)
    assert num_scanned(wire[:20_000], 1000) is None
    message = f"must have {MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}, got 4"
    with pytest.raises(InvalidRequest, match=message):
        num_scanned(wire[:50_000], 1000)


@pytest.mark.parametrize(
    "wire",
    [b"%x\r\n" % (MAX_BODY_BYTES + 1), in_chunks([1 << 20] * 5), b"1;%b\r\nx\r\n" % (b"x" * 8000) * 1100],
    ids=["announced", "received", "extensions"],
)
def test_a_body_beyond_the_limit_is_refused(wire):
    with pytest.raises(BodyTooLarge, match=f"at most {MAX_BODY_BYTES} bytes"):
        num_scanned(wire, 1 << 16)
