"""Server-sent events: bytes in any split → the data of events. It does no IO and knows nothing of what the data mean.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")


def decode(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of every event as soon as its last byte is there; an event without its blank line is dropped."""
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


class Decoder:
    """Turns chunks of a stream into the data of its events, wherever the chunks were cut.

    Fields other than `data` are read over, comments too. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        """Start before the first byte of a stream."""
        self._line: list[bytes] = []  # pieces of the unfinished line, joined once: a long line costs linear time
        self._data: list[str] = []
        self._after_cr = False  # a line has ended with \r: if \n comes next, it is the same line end
        self._encoding = "utf-8-sig"  # the stream, not a line, may start with a byte order mark

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Take the next bytes, and yield the data of each event that they complete."""
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        *ends_of_lines, rest = _LINE_END.split(chunk)
        for end in ends_of_lines:
            self._line.append(end)
            yield from self._take_line()
        self._line.append(rest)

    def _take_line(self) -> Iterator[str]:
        line = b"".join(self._line).decode(self._encoding, errors="replace")
        self._line.clear()
        self._encoding = "utf-8"
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value[1:] if value.startswith(" ") else value)
        elif not line and self._data:
            data = "\n".join(self._data)
            self._data.clear()
            yield data
