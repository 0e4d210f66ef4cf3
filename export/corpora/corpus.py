"""A named corpus of text documents, and its train/validation split.

Knows where to split a corpus. Does not know tokens.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from export.corpora.documents import Documents, separate_documents
from export.corpora.shuffling import shuffle_documents
from export.corpora.sources import read_texts
from export.corpora.text import Chunk, Text, TextWriter
from export.errors import CorpusError

# Longer texts are subsampled for excerpts.
SAMPLED_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """A sequence of text documents in a file, which are streamed chunk by chunk.

    Attributes:
        name: Its name.
        text: The documents: at least one, none of them blank.
        ends: Whether each document ends with the end token; False if the corpus is one running text.
    """

    name: str
    text: Text
    ends: bool

    @classmethod
    def of(cls, name: str, documents: Iterable[str], *, ends: bool) -> "Corpus":
        """Create a corpus of in-memory documents, without the blank ones.

        Raises:
            CorpusError: all documents are blank.
        """
        return cls._write(name, separate_documents(([document] for document in documents), "file"), "corpus", ends=ends)

    @classmethod
    def _write(cls, name: str, separated: Iterable[str], role: str, *, ends: bool) -> "Corpus":
        writer = TextWriter()
        for part in separated:
            writer.write(part)
        text = writer.text()
        if text is None:
            raise CorpusError(f"{role} {name}: it has no text")
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
        """All documents, in memory; for small corpora only."""
        return tuple(self.text.documents())

    def chunks(self, doing: str = "reading") -> Iterator[Chunk]:
        """Yield all documents in chunks; encoding chunk by chunk gives the same tokens as encoding the whole."""
        return self.text.chunks(doing)

    def texts(self, doing: str = "reading") -> Iterator[str]:
        """Yield the text of each chunk, for tokenizer training."""
        return (chunk.text for chunk in self.chunks(doing))

    def sha256(self) -> str:
        """Return the hash of the documents and their boundaries."""
        return self.text.sha256()

    def excerpts(self) -> tuple[str, ...]:
        """Return all documents, or evenly spaced chunks of a long text."""
        step = -(-self.num_characters // SAMPLED_CHARACTERS)
        if step == 1:
            return self.documents
        return tuple(text for number, text in enumerate(self.texts()) if number % step == 0)

    def split(self, fraction: float, seed: int) -> tuple["Corpus", "Corpus | None"]:
        """Split into training and validation: at a character of a running text, else at a boundary of documents.

        The validation split is the tail, a fraction from 0 (there is none) to below 1. Documents are shuffled by the
        seed before the split and cut at the boundary nearest to the fraction.

        Raises:
            CorpusError: there is too little text for a validation split.
        """
        text = shuffle_documents(self.text, seed) if self.ends else self.text
        if fraction == 0:
            return replace(self, text=text), None
        # Round down, as nanoGPT and most others do, to compare results. The offset: in floats 1 - 0.9 is below 0.1.
        keep = math.floor(self.num_characters * (1 - fraction) + 1e-6)
        if self.ends:
            parts = text.split_at_document(keep)
        else:
            parts = text.split_at_character(keep) if 0 < keep < self.num_characters else None
        if parts is None:
            raise CorpusError(
                f"corpus {self.name}: {self.num_characters} character(s) in {self.num_documents} document(s) are too "
                f"few to hold out validation = {fraction}; give more text or --validation 0"
            )
        head, tail = parts
        return replace(self, text=head), replace(self, text=tail)


def read_corpus(source: str, documents: Documents = "none", role: str = "corpus") -> Corpus:
    """Read a corpus of UTF-8 text.

    The text is copied into an unnamed temporary file: so a pipe can be read several times, training sees the text that
    was hashed even if the source changes meanwhile, and seeking is fast.

    Args:
        source: A file, a directory (its files sorted by path, without hidden ones), `-` for standard input, or
            `pydoc-topics`.
        documents: How to split the text: `none` joins everything into one running text, `file` makes each file a
            document, `lines` each line that is not blank, `blank-line` each paragraph.
        role: The option that named the source, for messages.

    Raises:
        CorpusError: the source is missing, empty, blank, binary or not UTF-8.
    """
    separated = separate_documents(read_texts(source, role), documents)
    return Corpus._write(source, separated, role, ends=documents != "none")
