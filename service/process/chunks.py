"""Finds the end of a chunked request body while it arrives, and limits its chunks.

Each chunk costs the same time, however small. What a chunk contains is gunicorn's reader's to check.
"""

import re

from service.errors import BodyTooLarge, InvalidRequest

# A streaming JSON encoder sends chunks of a few bytes: small bodies may be sent that way.
FREE_CHUNKS = 4096
# Of all further chunks. 4 MiB have at most 20,000 chunks, which take 0.07 s to parse; one-byte chunks took 11 s.
MIN_AVERAGE_BYTES = 256
# gunicorn's limit of a chunk's size line; with extensions, which may make a body longer than its content.
_MAX_LINE_BYTES = 8190
_MAX_TRAILER_BYTES = 64 * 2**10
_FIRST_LINE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[^\r]*)?\r\n")
# From the end of the chunk before.
_LINE = re.compile(rb"\r\n" + _FIRST_LINE.pattern)


class ChunkScanner:
    """The position in a chunked body up to which it has been checked."""

    def __init__(self, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        self._end = 0  # of the last chunk's data
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
            line = (_LINE if self._end else _FIRST_LINE).match(received, self._end)
            if line is None:
                return self._is_malformed(received)
            size = int(line[1], 16)
            self._count(size)
            self._end, self._is_last = line.end() + size, not size
        has_ended = received.startswith(b"\r\n", self._end) or received.find(b"\r\n\r\n", self._end) >= 0
        return has_ended or len(received) - self._end > _MAX_TRAILER_BYTES

    def _is_malformed(self, received: bytearray) -> bool:
        """Return whether what follows the last chunk cannot become the line of a next one."""
        following = received[self._end : self._end + _MAX_LINE_BYTES]
        if self._end:
            if not b"\r\n".startswith(following[:2]):
                return True
            del following[:2]
        return b"\r\n" in following or len(following) >= _MAX_LINE_BYTES - 2

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
