"""Documents of text in a file without a name, which are read in pieces: what is in memory does not grow with them.

The file is all documents in UTF-8 with a zero between two, which stands in no text. Places in it are noted as it is
written, so that one is found by its number of characters without reading all that stands before.

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
    """A place in the file, and what stands before it."""

    byte: int
    characters: int
    marks: int

    def after(self, text: str) -> "Place":
        """Return the place behind a text that stands here."""
        marks = text.count(MARK)
        return Place(self.byte + len(text.encode()), self.characters + len(text) - marks, self.marks + marks)


class Piece(NamedTuple):
    """A part of a document that no word reaches out of.

    Attributes:
        text: At least one character.
        ends: Whether the document ends with it.
    """

    text: str
    ends: bool


@dataclass(frozen=True)
class Text:
    """Some documents that stand behind each other in a file.

    Attributes:
        scratch: The file; a text and its parts share it.
        noted: Places in it, the first at its beginning.
        start: Where these documents begin.
        stop: Where they end.
    """

    scratch: Spool
    noted: Sequence[Place]
    start: Place
    stop: Place

    @property
    def num_characters(self) -> int:
        """Characters of all documents."""
        return self.stop.characters - self.start.characters

    @property
    def num_documents(self) -> int:
        """At least 1."""
        return self.stop.marks - self.start.marks + 1

    def sha256(self) -> str:
        """Hash the documents and where they part."""
        digest = hashlib.sha256()
        with ProgressLine("hashing", self.stop.byte - self.start.byte) as waiting:
            for block in self.blocks(waiting):
                digest.update(block)
        return digest.hexdigest()

    def pieces(self, doing: str) -> Iterator[Piece]:
        """Yield all documents in pieces.

        Args:
            doing: What is done with them, for whoever waits.
        """
        cutter, decoder = Chunker(), codecs.getincrementaldecoder("utf-8")()
        with ProgressLine(doing, self.stop.byte - self.start.byte) as waiting:
            for block in self.blocks(waiting):
                *ended, rest = decoder.decode(block).split(MARK)
                for part in ended:
                    yield from (Piece(piece, ends=False) for piece in cutter.feed(part))
                    yield Piece(cutter.end(), ends=True)
                yield from (Piece(piece, ends=False) for piece in cutter.feed(rest))
            yield Piece(cutter.end(), ends=True)

    def documents(self) -> Iterator[str]:
        """Yield each document whole."""
        parts = []
        for piece in self.pieces("reading"):
            parts.append(piece.text)
            if piece.ends:
                yield "".join(parts)
                parts = []

    def cut_at_character(self, count: int) -> tuple["Text", "Text"]:
        """Part a single document behind so many characters of it."""
        noted = self._noted_before(count)
        here = max(self.noted[noted], self.start)
        behind = self._between(here.byte, self._end_of(noted))
        place = here.after(behind[: self.start.characters + count - here.characters])
        return self._part(self.start, place), self._part(place, self.stop)

    def cut_at_mark(self, count: int) -> tuple["Text", "Text"] | None:
        """Part the documents where the first so many characters end, or nearest to that; None if there is but one."""
        noted, wanted = self._noted_before(count), self.start.characters + count
        # Backwards and forwards from there, the nearest first.
        before = (mark for i in range(noted, -1, -1) for mark in self._marks(i)[::-1] if mark.characters <= wanted)
        after = (mark for i in range(noted, len(self.noted)) for mark in self._marks(i) if mark.characters > wanted)
        nearest = [mark for mark in (next(before, None), next(after, None)) if mark]
        if not nearest:
            return None
        mark = min(nearest, key=lambda mark: abs(mark.characters - wanted))
        return self._part(self.start, mark), self._part(mark.after(MARK), self.stop)

    def _part(self, start: Place, stop: Place) -> "Text":
        return Text(self.scratch, self.noted, start, stop)

    def blocks(self, waiting: ProgressLine) -> Iterator[bytes]:
        """Yield the bytes of all documents, with a zero between two."""
        for place in range(self.start.byte, self.stop.byte, BLOCK_BYTES):
            block = self.scratch.read(place, min(place + BLOCK_BYTES, self.stop.byte))
            waiting.step(len(block))
            yield block

    def _between(self, start: int, stop: int) -> str:
        return self.scratch.read(start, stop).decode()

    def _noted_before(self, count: int) -> int:
        """Return the number of the last place that is noted before so many characters, or there."""
        return bisect(self.noted, self.start.characters + count, key=lambda place: place.characters) - 1

    def _end_of(self, number: int) -> int:
        """Return where the stretch ends that begins at a noted place."""
        is_last = number + 1 == len(self.noted)
        return self.stop.byte if is_last else min(self.noted[number + 1].byte, self.stop.byte)

    def _marks(self, number: int) -> list[Place]:
        """Return the places of the marks between two documents of these, in the stretch from a noted place on."""
        here, is_last = self.noted[number], number + 1 == len(self.noted)
        if not is_last and self.noted[number + 1].marks == here.marks:
            return []
        places: list[Place] = []
        for document in self._between(here.byte, self._end_of(number)).split(MARK)[:-1]:
            places.append(here.after(document))
            here = places[-1].after(MARK)
        return [place for place in places if self.start.byte < place.byte < self.stop.byte]


class TextWriter:
    """Writes the file of a text, part by part; blank documents are left out."""

    def __init__(self) -> None:
        self._scratch = Spool()
        self._place = Place(0, 0, 0)
        self._noted = [self._place]
        # Whether the document that is being written has text, and the white space it begins with if it has none yet.
        self._begun, self._blank = False, ""

    def write(self, text: str) -> None:
        """Go on with a document; a mark ends it and begins another."""
        part, *others = text.split(MARK)
        self._go_on(part)
        if others:
            *whole, last = others
            self._end()
            self._put([document for document in whole if document.strip()])
            self._go_on(last)

    def text(self) -> Text | None:
        """Return what was written; None if all of it was blank."""
        return Text(self._scratch, self._noted, self._noted[0], self._place) if self._place.byte else None

    def _go_on(self, part: str) -> None:
        if self._begun:
            self._append(part)
        elif part.strip():
            self._put([self._blank + part])
            self._begun, self._blank = True, ""
        else:
            self._blank += part

    def _end(self) -> None:
        self._begun, self._blank = False, ""

    def _put(self, documents: Iterable[str]) -> None:
        """Begin documents behind those that are there."""
        text = MARK.join(documents)
        if text:
            self._append(MARK + text if self._place.byte else text)

    def _append(self, text: str) -> None:
        self._scratch.write(text.encode())
        self._place = self._place.after(text)
        if self._place.byte - self._noted[-1].byte >= BLOCK_BYTES:
            self._noted.append(self._place)
