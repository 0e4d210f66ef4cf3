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

from contract.tokenizers.chunking import Chunker
from export.corpora.documents import MARK
from export.corpora.progress import ProgressLine
from export.corpora.spool import BLOCK_BYTES, Spool


class Place(NamedTuple):
    """A position in the file, with the numbers of bytes, characters and document separators before it."""

    byte: int
    characters: int
    marks: int

    def after(self, text: str) -> "Place":
        """Return the position after a text that begins here."""
        marks = text.count(MARK)
        return Place(self.byte + len(text.encode()), self.characters + len(text) - marks, self.marks + marks)


class Piece(NamedTuple):
    """A chunk of a document; no word crosses its boundaries.

    Attributes:
        text: At least one character.
        ends: Whether it is the last chunk of the document.
    """

    text: str
    ends: bool


@dataclass(frozen=True)
class Text:
    """A range of consecutive documents in a file.

    Attributes:
        scratch: The file; a text and its splits share it.
        noted: Index of positions in the file, the first at its beginning.
        start: Position of the first document.
        stop: End of the last document.
    """

    scratch: Spool
    noted: Sequence[Place]
    start: Place
    stop: Place

    @property
    def num_characters(self) -> int:
        """Number of characters of all documents."""
        return self.stop.characters - self.start.characters

    @property
    def num_documents(self) -> int:
        """At least 1."""
        return self.stop.marks - self.start.marks + 1

    def sha256(self) -> str:
        """Return the hash of the documents and their boundaries."""
        digest = hashlib.sha256()
        with ProgressLine("hashing", self.stop.byte - self.start.byte) as progress:
            for block in self.blocks(progress):
                digest.update(block)
        return digest.hexdigest()

    def pieces(self, doing: str) -> Iterator[Piece]:
        """Yield all documents in chunks.

        Args:
            doing: Label of the progress bar.
        """
        chunker, decoder = Chunker(), codecs.getincrementaldecoder("utf-8")()
        with ProgressLine(doing, self.stop.byte - self.start.byte) as progress:
            for block in self.blocks(progress):
                *last_parts, rest = decoder.decode(block).split(MARK)
                for part in last_parts:
                    yield from (Piece(piece, ends=False) for piece in chunker.feed(part))
                    yield Piece(chunker.end(), ends=True)
                yield from (Piece(piece, ends=False) for piece in chunker.feed(rest))
            yield Piece(chunker.end(), ends=True)

    def documents(self) -> Iterator[str]:
        """Yield whole documents."""
        parts = []
        for piece in self.pieces("reading"):
            parts.append(piece.text)
            if piece.ends:
                yield "".join(parts)
                parts = []

    def cut_at_character(self, count: int) -> tuple["Text", "Text"]:
        """Split a single document after `count` characters."""
        index = self._index_before(count)
        here = max(self.noted[index], self.start)
        following = self._between(here.byte, self._segment_end(index))
        place = here.after(following[: self.start.characters + count - here.characters])
        return self._range(self.start, place), self._range(place, self.stop)

    def cut_at_mark(self, count: int) -> tuple["Text", "Text"] | None:
        """Split at the document boundary nearest to `count` characters; None if there is only one document."""
        index, target = self._index_before(count), self.start.characters + count
        # Backwards and forwards from the target, nearest first.
        before = (mark for i in range(index, -1, -1) for mark in self._marks(i)[::-1] if mark.characters <= target)
        after = (mark for i in range(index, len(self.noted)) for mark in self._marks(i) if mark.characters > target)
        nearest = [mark for mark in (next(before, None), next(after, None)) if mark]
        if not nearest:
            return None
        mark = min(nearest, key=lambda mark: abs(mark.characters - target))
        return self._range(self.start, mark), self._range(mark.after(MARK), self.stop)

    def _range(self, start: Place, stop: Place) -> "Text":
        return Text(self.scratch, self.noted, start, stop)

    def blocks(self, progress: ProgressLine) -> Iterator[bytes]:
        """Yield the bytes of all documents, separated by zero bytes."""
        for offset in range(self.start.byte, self.stop.byte, BLOCK_BYTES):
            block = self.scratch.read(offset, min(offset + BLOCK_BYTES, self.stop.byte))
            progress.step(len(block))
            yield block

    def _between(self, start: int, stop: int) -> str:
        return self.scratch.read(start, stop).decode()

    def _index_before(self, count: int) -> int:
        """Return the index in `noted` of the last position at or before `count` characters."""
        return bisect(self.noted, self.start.characters + count, key=lambda place: place.characters) - 1

    def _segment_end(self, index: int) -> int:
        """Return the end of the segment that begins at a position of the index."""
        is_last = index + 1 == len(self.noted)
        return self.stop.byte if is_last else min(self.noted[index + 1].byte, self.stop.byte)

    def _marks(self, index: int) -> list[Place]:
        """Return the positions of the document separators in a segment, only those between documents of this range."""
        here, is_last = self.noted[index], index + 1 == len(self.noted)
        if not is_last and self.noted[index + 1].marks == here.marks:
            return []
        places: list[Place] = []
        for document in self._between(here.byte, self._segment_end(index)).split(MARK)[:-1]:
            places.append(here.after(document))
            here = places[-1].after(MARK)
        return [place for place in places if self.start.byte < place.byte < self.stop.byte]


class TextWriter:
    """A writer of the file of a `Text`, part by part; it skips blank documents."""

    def __init__(self) -> None:
        self._spool = Spool()
        self._place = Place(0, 0, 0)
        self._noted = [self._place]
        # Whether the current document has text, and its leading white space as long as it has none.
        self._has_text, self._blank = False, ""

    def write(self, text: str) -> None:
        """Append to the current document; `MARK` ends it and begins another."""
        part, *others = text.split(MARK)
        self._continue(part)
        if others:
            *whole, last = others
            self._end()
            self._begin([document for document in whole if document.strip()])
            self._continue(last)

    def text(self) -> Text | None:
        """Return the text written so far; None if all of it was blank."""
        return Text(self._spool, self._noted, self._noted[0], self._place) if self._place.byte else None

    def _continue(self, part: str) -> None:
        if self._has_text:
            self._append(part)
        elif part.strip():
            self._begin([self._blank + part])
            self._has_text, self._blank = True, ""
        else:
            self._blank += part

    def _end(self) -> None:
        self._has_text, self._blank = False, ""

    def _begin(self, documents: Iterable[str]) -> None:
        """Append the beginnings of new documents."""
        text = MARK.join(documents)
        if text:
            self._append(MARK + text if self._place.byte else text)

    def _append(self, text: str) -> None:
        self._spool.write(text.encode())
        self._place = self._place.after(text)
        if self._place.byte - self._noted[-1].byte >= BLOCK_BYTES:
            self._noted.append(self._place)
