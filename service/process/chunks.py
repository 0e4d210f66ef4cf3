"""Finds the end of a chunked request body while it arrives, and limits its chunks.

Each chunk costs the same time, however small. What a chunk contains is gunicorn's reader's to check.
"""

from service.errors import BodyTooLarge, InvalidRequest

# A streaming JSON encoder sends chunks of a few bytes: small bodies may be sent that way.
FREE_CHUNKS = 4096
# Of all further chunks. 4 MiB have at most 20,000 chunks, which take 0.07 s to parse; one-byte chunks took 11 s.
MIN_AVERAGE_BYTES = 256
# gunicorn's limit of a chunk's size line; with extensions, which may make a body longer than its content.
_MAX_LINE_BYTES = 8190
_MAX_TRAILER_BYTES = 64 * 2**10
_DIGITS = frozenset(b"0123456789abcdefABCDEF")


class ChunkScanner:
    """The position in a chunked body up to which it has been checked."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._next = 0  # where the next size line begins
        self._num_chunks = self._num_bytes = 0
        self._is_last = False

    def is_complete(self, received: bytearray) -> bool:
        """Return whether gunicorn's reader needs no further bytes: the body has ended, or is malformed.

        `received` is the body from its first byte, a continuation of what was passed before.

        Raises:
            InvalidRequest: there are too many small chunks.
            BodyTooLarge: the body exceeds the limit.
        """
        if len(received) > 2 * self._max_body_bytes + _MAX_TRAILER_BYTES:
            raise self._too_large()
        while not self._is_last:
            if self._next > len(received):
                return False
            if self._next and not received.endswith(b"\r\n", 0, self._next):
                return True
            end = received.find(b"\r\n", self._next)
            if end < 0:
                return len(received) - self._next > _MAX_LINE_BYTES
            size = _parse_size(received[self._next : end])
            if size is None:
                return True
            self._count(size)
            self._next = end + 2 + (size + 2 if size else 0)
            self._is_last = size == 0
        has_ended = received.startswith(b"\r\n", self._next) or received.find(b"\r\n\r\n", self._next) >= 0
        return has_ended or len(received) - self._next > _MAX_TRAILER_BYTES

    def _count(self, size: int) -> None:
        self._num_chunks += 1
        if self._num_chunks > FREE_CHUNKS + self._num_bytes // MIN_AVERAGE_BYTES:
            raise InvalidRequest(
                f"the chunks of a body must have {MIN_AVERAGE_BYTES} bytes on average after the first {FREE_CHUNKS}, "
                f"got {self._num_chunks} chunks with {self._num_bytes} bytes"
            )
        self._num_bytes += size
        if self._num_bytes > self._max_body_bytes:
            raise self._too_large()

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body must be at most {self._max_body_bytes} bytes, got more")


def _parse_size(line: bytearray) -> int | None:
    """Return the size in a size line, or None if it is malformed."""
    digits, semicolon, _ = line.partition(b";")
    digits = digits.rstrip(b" \t") if semicolon else digits
    return int(digits, 16) if digits and _DIGITS.issuperset(digits) else None
