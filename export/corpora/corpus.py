"""A corpus: documents of text under a name, in order, of which a part can be held out.

Knows where a corpus is cut. Does not know tokens.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from export.corpora.documents import Documents, mark_documents
from export.corpora.shuffling import shuffle_documents
from export.corpora.sources import DEMO, read_texts
from export.corpora.text import Piece, Text, TextWriter
from export.errors import CorpusError

__all__ = ["DEMO", "Corpus", "Documents", "Piece", "read_corpus"]

# Of a text that is longer a part is enough to take samples from.
SAMPLED_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Documents of text, in order; they lie in a file, and memory holds a piece of them.

    Attributes:
        name: What it was called.
        text: The documents: at least one, none of them blank.
        ends: Whether each document ends with an end mark; False where the corpus is one running text.
    """

    name: str
    text: Text
    ends: bool

    @classmethod
    def of(cls, name: str, documents: Iterable[str], *, ends: bool) -> "Corpus":
        """Make a corpus of documents that are there already; blank ones are left out.

        Raises:
            CorpusError: there is no text in them.
        """
        return cls._write(name, mark_documents(([document] for document in documents), "file"), "corpus", ends=ends)

    @classmethod
    def _write(cls, name: str, marked: Iterable[str], role: str, *, ends: bool) -> "Corpus":
        writer = TextWriter()
        for part in marked:
            writer.write(part)
        text = writer.text()
        if text is None:
            raise CorpusError(f"{role} {name}: there is no text in it")
        return cls(name, text, ends)

    @property
    def num_characters(self) -> int:
        """Characters of all documents."""
        return self.text.num_characters

    @property
    def num_documents(self) -> int:
        """At least 1."""
        return self.text.num_documents

    @property
    def documents(self) -> tuple[str, ...]:
        """All documents, in memory: for a corpus that is known to be small."""
        return tuple(self.text.documents())

    def pieces(self, doing: str = "reading") -> Iterator[Piece]:
        """Yield all documents in pieces that every tokenizer encodes as it would the whole.

        Args:
            doing: What is done with them, for whoever waits.
        """
        return self.text.pieces(doing)

    def texts(self, doing: str = "reading") -> Iterator[str]:
        """Yield the texts of all pieces, to learn a vocabulary from."""
        return (piece.text for piece in self.pieces(doing))

    def sha256(self) -> str:
        """Hash the documents and where they part."""
        return self.text.sha256()

    def excerpts(self) -> tuple[str, ...]:
        """Return all documents, or of a long text pieces from everywhere in it."""
        step = -(-self.num_characters // SAMPLED_CHARACTERS)
        if step == 1:
            return self.documents
        return tuple(text for number, text in enumerate(self.texts()) if number % step == 0)

    def split(self, fraction: float, seed: int | None = None) -> tuple["Corpus", "Corpus | None"]:
        """Hold out a part: the end of a running text, and documents that are drawn from all of them.

        A running text is cut at a character, documents at the boundary nearest to it.

        Args:
            fraction: Of the characters, 0 to below 1. At 0 nothing is held out.
            seed: Documents are shuffled by it, the held-out ones as well as the others; None to leave them in order,
                as earlier releases did: of a sorted list the last letters are held out then.

        Raises:
            CorpusError: there is too little text to hold out anything.
        """
        if self.ends and seed is not None:
            return Corpus(self.name, shuffle_documents(self.text, seed), self.ends).split(fraction)
        if fraction == 0:
            return self, None
        # Down, as nanoGPT and most others part their text, whose figures stand beside ours; 1 - 0.9 is less than 0.1.
        keep = math.floor(self.num_characters * (1 - fraction) + 1e-6)
        if self.ends:
            parts = self.text.cut_at_mark(keep)
        else:
            parts = self.text.cut_at_character(keep) if 0 < keep < self.num_characters else None
        if parts is None:
            raise CorpusError(
                f"corpus {self.name}: {self.num_characters} character(s) in {self.num_documents} document(s) are too "
                f"few to hold out validation = {fraction}; give more text or --validation 0"
            )
        head, tail = parts
        return Corpus(self.name, head, self.ends), Corpus(self.name, tail, self.ends)


def read_corpus(
    source: str, documents: Documents = "none", stdin: BinaryIO | None = None, role: str = "corpus"
) -> Corpus:
    """Read text in UTF-8.

    It is copied into a file without a name: so a pipe can be gone through several times, what is learnt is what was
    hashed even if the source changes meanwhile, and any place in it is found at once.

    Args:
        source: A file, a folder (its files in order of their paths, hidden ones left out), `-` for standard input, or
            `pydoc-topics`.
        documents: How the text is parted: `none` joins everything into one running text, `file` makes each file a
            document, `lines` each line that is not blank, `blank-line` each paragraph.
        stdin: Read for `-`.
        role: The option that named it, for messages.

    Raises:
        CorpusError: nothing to read, not UTF-8, binary, or no text in it.
    """
    marked = mark_documents(read_texts(source, stdin, role), documents)
    return Corpus._write(source, marked, role, ends=documents != "none")
