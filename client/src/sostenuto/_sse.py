"""Server-sent events decoder. Knows the wire format. Does no IO and does not know what the data mean.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")


def decode(chunks: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each event as soon as its last byte arrives; drop a last event without its blank line."""
    decoder = Decoder()
    for chunk in chunks:
        yield from decoder.feed(chunk)


class Decoder:
    """An incremental decoder: accepts chunks split at any byte.

    Ignores comments and fields other than `data`. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []  # parts of the unfinished line, joined once: a long line costs linear time
        self._data: list[str] = []
        self._after_cr = False  # the last byte was \r: a following \n belongs to the same line end
        self._encoding = "utf-8-sig"  # the stream, not a line, may start with a byte order mark

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Decode the next bytes and yield the data of each event that they complete."""
        if not chunk:
            return
        if self._after_cr:
            chunk = chunk.removeprefix(b"\n")
        self._after_cr = chunk.endswith(b"\r")
        *ends_of_lines, rest = _LINE_END.split(chunk)
        for end in ends_of_lines:
            self._line.append(end)
            yield from self._process_line()
        self._line.append(rest)

    def _process_line(self) -> Iterator[str]:
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
