"""Request bodies in chunks whose size is reasonable: a chunk costs the same time, however few bytes it has.

Knows gunicorn's reader of chunks. Does not know what a body says.
"""

# gunicorn has no types of its own, hence every `type: ignore` in this file.
from gunicorn.http import Request  # type: ignore[import-untyped]
from gunicorn.http.body import ChunkedReader  # type: ignore[import-untyped]
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from gunicorn.http.unreader import Unreader  # type: ignore[import-untyped]

# A JSON encoder that sends what it yields makes chunks of a few bytes: small bodies may be sent so.
FREE_CHUNKS = 4096
# Of all further ones. 4 MiB are 20,000 chunks at most, which take 0.07 s to parse; in chunks of one byte it was 11 s.
MIN_AVERAGE_BYTES = 256


class ChunksTooSmall(ParseException):  # type: ignore[misc]
    """A body is cut into too many chunks."""

    def __init__(self, num_chunks: int, num_bytes: int) -> None:
        super().__init__(num_chunks, num_bytes)
        self.num_chunks, self.num_bytes = num_chunks, num_bytes

    def __str__(self) -> str:
        """Name the limit and what came."""
        return (
            f"the chunks of a body must have {MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}, got "
            f"{self.num_chunks} chunks with {self.num_bytes} bytes"
        )


class BoundedChunkedReader(ChunkedReader):  # type: ignore[misc]
    """gunicorn's reader, with a limit of the number of chunks."""

    def __init__(self, req: Request, unreader: Unreader) -> None:
        super().__init__(req, unreader)
        self.num_chunks = self.num_bytes = 0

    def parse_chunk_size(self, unreader: Unreader, data: bytes | None = None) -> tuple[int, bytes | None]:
        """Count a chunk.

        Raises:
            ChunksTooSmall: there are too many.
        """
        size, rest = super().parse_chunk_size(unreader, data)
        self.num_chunks += 1
        if self.num_chunks > FREE_CHUNKS + self.num_bytes // MIN_AVERAGE_BYTES:
            raise ChunksTooSmall(self.num_chunks, self.num_bytes)
        self.num_bytes += size
        return size, rest


def limit_chunks(req: Request, unreader: Unreader) -> None:
    """Have a request's body read with the limit, if it is in chunks. To be called before anything is read of it."""
    if isinstance(req.body.reader, ChunkedReader):
        req.body.reader = BoundedChunkedReader(req, unreader)
