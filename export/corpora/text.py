"""Text documents in an unnamed temporary file, read in chunks: memory use does not grow with their size.

The file contains all documents in UTF-8, separated by zero bytes, which occur in no text. Writing it builds an index of
positions, so that seeking to a character does not read everything before it.

Knows documents. Does not know where they come from, nor tokens.
"""

import codecs
import hashlib
from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from contract.tokenizers.huggingface import Chunker
from export.corpora.documents import SEPARATOR
from export.corpora.progress import ProgressLine
from export.corpora.spool import BLOCK_BYTES, Spool


class Position(NamedTuple):
    """A position in the file, with the numbers of bytes, characters and document separators before it."""

    byte: int
    characters: int
    separators: int

    def after(self, text: str) -> "Position":
        """Return the position after a text that begins here."""
        count = text.count(SEPARATOR)
        return Position(self.byte + len(text.encode()), self.characters + len(text) - count, self.separators + count)


class Chunk(NamedTuple):
    """A chunk of a document; no word crosses its boundaries.

    Attributes:
        text: At least one character.
        is_last: Whether it is the last chunk of the document.
    """

    text: str
    is_last: bool


@dataclass(frozen=True)
class Text:
    """A range of consecutive documents in a file.

    Attributes:
        spool: The file; a text and its splits share it.
        index: Positions in the file to seek from, the first at its beginning.
        start: Position of the first document.
        stop: End of the last document.
    """

    spool: Spool
    index: Sequence[Position]
    start: Position
    stop: Position

    @property
    def num_characters(self) -> int:
        """Number of characters of all documents."""
        return self.stop.characters - self.start.characters

    @property
    def num_documents(self) -> int:
        """At least 1."""
        return self.stop.separators - self.start.separators + 1

    def sha256(self) -> str:
        """Return the hash of the documents and their boundaries."""
        digest = hashlib.sha256()
        with ProgressLine("hashing", self.stop.byte - self.start.byte) as progress:
            for block in self.blocks(progress):
                digest.update(block)
        return digest.hexdigest()

    def chunks(self, doing: str) -> Iterator[Chunk]:
        """Yield all documents in chunks."""
        chunker, decoder = Chunker(), codecs.getincrementaldecoder("utf-8")()
        with ProgressLine(doing, self.stop.byte - self.start.byte) as progress:
            for block in self.blocks(progress):
                *last_parts, rest = decoder.decode(block).split(SEPARATOR)
                for part in last_parts:
                    yield from (Chunk(chunk, is_last=False) for chunk in chunker.feed(part))
                    yield Chunk(chunker.end(), is_last=True)
                yield from (Chunk(chunk, is_last=False) for chunk in chunker.feed(rest))
            yield Chunk(chunker.end(), is_last=True)

    def documents(self) -> Iterator[str]:
        """Yield whole documents."""
        parts = []
        for chunk in self.chunks("reading"):
            parts.append(chunk.text)
            if chunk.is_last:
                yield "".join(parts)
                parts = []

    def split_at_character(self, count: int) -> tuple["Text", "Text"]:
        """Split a single document after `count` characters."""
        number = self._segment_of(count)
        here = max(self.index[number], self.start)
        following = self._segment_from(here, number)
        position = here.after(following[: self.start.characters + count - here.characters])
        return self._range(self.start, position), self._range(position, self.stop)

    def split_at_document(self, count: int) -> tuple["Text", "Text"] | None:
        """Split at the document boundary nearest to `count` characters; None if there is only one document."""
        number, target = self._segment_of(count), self.start.characters + count
        # Backwards and forwards from the target, nearest first.
        before = (end for i in range(number, -1, -1) for end in self._ends(i)[::-1] if end.characters <= target)
        after = (end for i in range(number, len(self.index)) for end in self._ends(i) if end.characters > target)
        nearest = [end for end in (next(before, None), next(after, None)) if end]
        if not nearest:
            return None
        end = min(nearest, key=lambda end: abs(end.characters - target))
        return self._range(self.start, end), self._range(end.after(SEPARATOR), self.stop)

    def _range(self, start: Position, stop: Position) -> "Text":
        return Text(self.spool, self.index, start, stop)

    def blocks(self, progress: ProgressLine) -> Iterator[bytes]:
        """Yield the bytes of all documents, separated by zero bytes."""
        for offset in range(self.start.byte, self.stop.byte, BLOCK_BYTES):
            block = self.spool.read(offset, min(offset + BLOCK_BYTES, self.stop.byte))
            progress.step(len(block))
            yield block

    def _segment_of(self, count: int) -> int:
        """Return the number of the segment, between two positions of the index, that has character number `count`."""
        return bisect(self.index, self.start.characters + count, key=lambda position: position.characters) - 1

    def _segment_from(self, start: Position, number: int) -> str:
        """Return the text of a segment from a position in it."""
        is_last = number + 1 == len(self.index)
        stop = self.stop.byte if is_last else min(self.index[number + 1].byte, self.stop.byte)
        return self.spool.read(start.byte, stop).decode()

    def _ends(self, number: int) -> list[Position]:
        """Return the ends of documents in a segment, only those between documents of this range."""
        here, is_last = self.index[number], number + 1 == len(self.index)
        if not is_last and self.index[number + 1].separators == here.separators:
            return []
        ends: list[Position] = []
        for document in self._segment_from(here, number).split(SEPARATOR)[:-1]:
            ends.append(here.after(document))
            here = ends[-1].after(SEPARATOR)
        return [end for end in ends if self.start.byte < end.byte < self.stop.byte]


class TextWriter:
    """A writer of the file of a `Text`, part by part; it skips blank documents."""

    def __init__(self) -> None:
        self._spool = Spool()
        self._position = Position(0, 0, 0)
        self._index = [self._position]
        # Whether the current document has text, and its leading white space as long as it has none.
        self._has_text, self._blank = False, ""

    def write(self, text: str) -> None:
        """Append to the current document; `SEPARATOR` ends it and begins another."""
        part, *others = text.split(SEPARATOR)
        self._continue(part)
        if others:
            *whole, last = others
            self._has_text, self._blank = False, ""
            self._begin([document for document in whole if document.strip()])
            self._continue(last)

    def text(self) -> Text | None:
        """Return the text written so far; None if all of it was blank."""
        return Text(self._spool, self._index, self._index[0], self._position) if self._position.byte else None

    def _continue(self, part: str) -> None:
        if self._has_text:
            self._append(part)
        elif part.strip():
            self._begin([self._blank + part])
            self._has_text, self._blank = True, ""
        else:
            self._blank += part

    def _begin(self, documents: Iterable[str]) -> None:
        """Append the beginnings of new documents."""
        text = SEPARATOR.join(documents)
        if text:
            self._append(SEPARATOR + text if self._position.byte else text)

    def _append(self, text: str) -> None:
        self._spool.write(text.encode())
        self._position = self._position.after(text)
        if self._position.byte - self._index[-1].byte >= BLOCK_BYTES:
            self._index.append(self._position)
