"""A limit on the number of chunks in a chunked request body: each chunk costs the same time, however small.

Knows gunicorn's chunked reader. Does not know what a body contains.
"""

# gunicorn has no types of its own, hence every `type: ignore` in this file.
from gunicorn.http import Request  # type: ignore[import-untyped]
from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]

# A streaming JSON encoder sends chunks of a few bytes: small bodies may be sent that way.
FREE_CHUNKS = 4096
# Of all further chunks. 4 MiB have at most 20,000 chunks, which take 0.07 s to parse; one-byte chunks took 11 s.
MIN_AVERAGE_BYTES = 256


class ChunksTooSmall(ParseException):  # type: ignore[misc]
    """A body has too many small chunks."""

    def __init__(self, num_chunks: int, num_bytes: int) -> None:
        super().__init__(num_chunks, num_bytes)
        self.num_chunks, self.num_bytes = num_chunks, num_bytes

    def __str__(self) -> str:
        """Return a message with the limit and the received values."""
        return (
            f"the chunks of a body must have {MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}, got "
            f"{self.num_chunks} chunks with {self.num_bytes} bytes"
        )


class BoundedChunkedReader(ChunkedReader):  # type: ignore[misc]
    """gunicorn's chunked reader with a limit on the number of chunks."""

    def __init__(self, req: Request, unreader: Unreader) -> None:
        super().__init__(req, unreader)
        self.num_chunks = self.num_bytes = 0

    def parse_chunk_size(self, unreader: Unreader, data: bytes | None = None) -> tuple[int, bytes | None]:
        """Parse the size of a chunk and count it; raise ChunksTooSmall after too many small ones."""
        size, rest = super().parse_chunk_size(unreader, data)
        self.num_chunks += 1
        if self.num_chunks > FREE_CHUNKS + self.num_bytes // MIN_AVERAGE_BYTES:
            raise ChunksTooSmall(self.num_chunks, self.num_bytes)
        self.num_bytes += size
        return size, rest


def limit_chunks(req: Request, unreader: Unreader) -> None:
    """Apply the limit to a request's body if it is chunked. Call it before the body is read."""
    if isinstance(req.body.reader, ChunkedReader):
        req.body.reader = BoundedChunkedReader(req, unreader)
