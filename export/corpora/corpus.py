"""A corpus of text documents, streamed from a temporary file, and its train/validation split.

The file contains all documents in UTF-8, separated by zero bytes, which occur in no text. Memory use does not grow with
its size.
"""

import codecs
import hashlib
import io
import math
import mmap
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from contract import splitmix64
from contract.tokenizers.huggingface import Chunker
from export.corpora.documents import SEPARATOR, Documents, RecordReader, separate_documents
from export.corpora.encodings import decode_file
from export.corpora.packaged import READERS
from export.corpora.spool import BLOCK_BYTES, Spool, blocks
from export.errors import CorpusError, NotText
from export.terminal import ProgressLine

# Longer texts are subsampled for excerpts.
SAMPLED_CHARACTERS = 1 << 20
# UTF-8 continuation bytes, as int8, are below this.
_FIRST_BYTE = -64
# Bytes to search at once for the position of a character.
_SEARCHED_BYTES = 1 << 16


class Chunk(NamedTuple):
    """A chunk of a document; no word crosses its boundaries."""

    text: str  # at least one character
    is_last: bool  # whether it is the last chunk of the document


@dataclass(frozen=True)
class Corpus:
    """Consecutive documents in a file: at least one, none of them blank."""

    name: str
    ends: bool  # whether each document ends with the end token; False if the corpus is one running text
    spool: Spool  # the file; a corpus and its splits may share it
    start: int  # offset of the first document in bytes
    stop: int  # end of the last document
    # By label column, the labels of the documents in order: str (documents,), "" where there is none.
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def num_characters(self) -> int:
        return sum(int(np.count_nonzero(_is_character(block))) for block in self.blocks("counting"))

    @cached_property
    def num_documents(self) -> int:
        return 1 + sum(block.count(0) for block in self.blocks("counting"))

    @property
    def documents(self) -> tuple[str, ...]:
        """All documents, in memory; for small corpora only."""
        return tuple(self.spool.read(self.start, self.stop).decode().split(SEPARATOR))

    def blocks(self, doing: str) -> Iterator[bytes]:
        """Yield the bytes of all documents, separated by zero bytes; the progress display shows `doing`."""
        with ProgressLine(doing, self.stop - self.start) as progress:
            for offset in range(self.start, self.stop, BLOCK_BYTES):
                block = self.spool.read(offset, min(offset + BLOCK_BYTES, self.stop))
                progress.step(len(block))
                yield block

    def chunks(self, doing: str = "reading") -> Iterator[Chunk]:
        """Yield all documents in chunks; encoding chunk by chunk gives the same tokens as encoding the whole."""
        chunker, decoder = Chunker(), codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks(doing):
            *last_parts, rest = decoder.decode(block).split(SEPARATOR)
            for part in last_parts:
                yield from (Chunk(chunk, is_last=False) for chunk in chunker.feed(part))
                yield Chunk(chunker.end(), is_last=True)
            yield from (Chunk(chunk, is_last=False) for chunk in chunker.feed(rest))
        yield Chunk(chunker.end(), is_last=True)

    def texts(self, doing: str = "reading") -> Iterator[str]:
        """Yield the text of each chunk, for tokenizer training."""
        return (chunk.text for chunk in self.chunks(doing))

    def sha256(self) -> str:
        """Return the hash of the documents, their boundaries and their labels."""
        digest = hashlib.sha256()
        for block in self.blocks("hashing"):
            digest.update(block)
        for name, labels in self.labels.items():
            digest.update(SEPARATOR.join(["", name, *labels]).encode())
        return digest.hexdigest()

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
        corpus = self._shuffled(seed) if self.ends else self
        if fraction == 0:
            return corpus, None
        # Round down, as nanoGPT and most others do, to compare results. The offset: in floats 1 - 0.9 is below 0.1.
        keep = math.floor(self.num_characters * (1 - fraction) + 1e-6)
        if self.ends:
            cut = corpus._nearest_boundary(keep)
        else:
            cut = corpus._offset_of(keep) if 0 < keep < self.num_characters else None
        if cut is None:
            more = "more documents, --documents none" if self.ends else "more text"
            raise CorpusError(
                f"corpus {self.name}: {self.num_characters} character(s) in {self.num_documents} document(s) are too "
                f"few to hold out validation = {fraction}; give {more} or --validation 0"
            )
        head = replace(corpus, stop=cut)
        tail = replace(corpus, start=cut + len(SEPARATOR) if self.ends else cut)
        if not self.labels:
            return head, tail
        own, others = slice(head.num_documents), slice(head.num_documents, None)
        return replace(head, labels=corpus._labels_at(own)), replace(tail, labels=corpus._labels_at(others))

    def _labels_at(self, selected: slice | np.ndarray) -> Mapping[str, np.ndarray]:
        return {name: labels[selected] for name, labels in self.labels.items()}

    def _shuffled(self, seed: int) -> "Corpus":
        """Return the documents in an order that the seed and their numbers alone determine.

        It does not depend on a library's random generator: a run that is resumed years later gets the same split. Takes
        24 bytes of memory per document.
        """
        offset, found = self.start, list[np.ndarray]()
        for block in self.blocks("shuffling"):
            found.append(offset + np.flatnonzero(np.frombuffer(block, np.uint8) == 0))
            offset += len(block)
        ends = np.append(np.concatenate(found), self.stop)
        starts = np.append(self.start, ends[:-1] + 1)
        origin = splitmix64.mix(np.array([seed], np.uint64) + splitmix64.STEP)
        keys = splitmix64.mix(origin + np.arange(1, len(ends) + 1, dtype=np.uint64) * splitmix64.STEP)
        shuffled = Spool()
        order = np.argsort(keys)
        for i in order:
            if shuffled.size:
                shuffled.write(SEPARATOR.encode())
            for start in range(starts[i], ends[i], BLOCK_BYTES):
                shuffled.write(self.spool.read(start, min(start + BLOCK_BYTES, ends[i])))
        return replace(self, spool=shuffled, start=0, stop=shuffled.size, labels=self._labels_at(order))

    def _offset_of(self, count: int) -> int:
        """Return the offset in the file of the character that follows `count` characters."""
        offset = self.start
        for block in self.blocks("splitting"):
            for flags in blocks(_is_character(block), _SEARCHED_BYTES):
                num_characters = int(np.count_nonzero(flags))
                if count < num_characters:
                    return offset + int(np.flatnonzero(flags)[count])
                count, offset = count - num_characters, offset + len(flags)
        return offset

    def _nearest_boundary(self, count: int) -> int | None:
        """Return the offset of the separator nearest to `count` characters; None if there is only one document."""
        target = self._offset_of(count)
        with mmap.mmap(self.spool.file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.rfind(b"\0", self.start, target), content.find(b"\0", target, self.stop)

        def distance(offset: int) -> int:
            return replace(self, start=min(offset, target), stop=max(offset, target)).num_characters

        return min((offset for offset in found if offset >= 0), key=distance, default=None)


def read_corpus(
    source: str, documents: Documents = "none", role: str = "corpus", label_columns: Iterable[str] = ()
) -> Corpus:
    """Read a corpus of UTF-8 text.

    The text is copied into an unnamed temporary file, so that a pipe can be read several times, training sees the text
    that was hashed even if the source changes meanwhile, and seeking is fast.

    Args:
        source: A file, a directory (its files sorted by path, without hidden ones), `-` for standard input, or
            a corpus of `export.corpora.packaged` by its name.
        documents: How to split the text: `none` joins everything into one running text, `file` makes each file a
            document, `lines` each line that is not blank, `blank-line` each paragraph, `records` each record of JSON
            Lines or CSV.
        role: The option of the source, for messages.
        label_columns: Fields of the records to read beside the text.

    Raises:
        CorpusError: the source is missing, empty, blank, binary or not UTF-8, a record is malformed, or none has a
            label column.
    """
    records = RecordReader(label_columns) if documents == "records" else None
    spool = _write_documents(separate_documents(_read_texts(source, role, records), documents))
    if not spool.size:
        raise CorpusError(f"{role} {source}: it has no text")
    labels = records.labels if records else {}
    for name in labels if records else ():
        if name not in records.fields and not any(labels[name]):
            fields = ", ".join(map(repr, records.fields))[:200]
            raise CorpusError(f"{role} {source}: no record has the label column {name!r}, only {fields}")
    columns = {name: np.array(values, object) for name, values in labels.items()}
    return Corpus(source, documents != "none", spool, 0, spool.size, columns)


def _read_texts(source: str, role: str, records: RecordReader | None = None) -> Iterator[Iterator[str]]:
    """Yield the texts of a source, each as an iterator of parts. Exhaust each text before advancing to the next.

    With `records`, files are JSON Lines or CSV, and each record is a text.

    Arguments and errors are those of `read_corpus`.
    """
    if source in READERS:
        yield from (iter([text]) for text in READERS[source]())
    elif source == "-":
        yield from _texts(_standard_input(role), Path(source), role, records)
    else:
        files = _files(Path(source), role)
        # Files that are not regular, such as pipes, report no size.
        with ProgressLine("reading", sum(size for _, size in files) or None) as progress:
            for file, _ in files:
                yield from _texts(_file_parts(file, role, progress), file, role, records)


def _texts(parts: Iterator[str], file: Path, role: str, records: RecordReader | None) -> Iterator[Iterator[str]]:
    if records:
        yield from (iter([text]) for text in records.read(parts, file, role))
    else:
        yield parts


def _files(path: Path, role: str) -> list[tuple[Path, int]]:
    """Return a file, or the files of a directory that are not hidden, with their sizes."""
    try:
        files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
        files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        if not files:
            raise CorpusError(f"{role} {path}: the directory has no files")
        return [(file, file.stat().st_size) for file in files]
    except OSError as error:
        raise CorpusError(f"{role} {path}: {error.strerror or error}") from error


def _file_parts(file: Path, role: str, progress: ProgressLine) -> Iterator[str]:
    try:
        with file.open("rb") as opened:
            yield from _decode(opened, f"{role} {file}", str(file), progress)
    except OSError as error:
        raise CorpusError(f"{role} {file}: {error.strerror or error}") from error


def _standard_input(role: str) -> Iterator[str]:
    if sys.stdin is None:
        raise CorpusError(f"{role} -: standard input is closed")
    if sys.stdin.buffer.isatty():
        print(f"reading the {role} from the terminal; Ctrl-D on a line of its own ends it", file=sys.stderr)
    with ProgressLine("reading", None) as progress:
        yield from _decode(sys.stdin.buffer, f"{role} standard input", None, progress)


def _decode(file: BinaryIO, name: str, path: str | None, progress: ProgressLine) -> Iterator[str]:
    """Yield the text of a file in parts, with line breaks normalized to line feeds."""
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    try:
        for part in decode_file(file, path):
            progress.step(len(part.encode()))
            yield line_ends.decode(part)
    except NotText as error:
        raise CorpusError(f"{name}: {error}") from error
    yield line_ends.decode("", final=True)


def _write_documents(parts: Iterable[str]) -> Spool:
    """Write documents, which `SEPARATOR` separates, part by part; skip the blank ones."""
    spool = Spool()
    # Whether the current document has text, and its leading white space until it does.
    has_text, blank = False, ""
    for part in parts:
        first, *others = (blank + part).split(SEPARATOR)
        continued = first if has_text else ""
        begun = [document for document in (others if has_text else [first, *others]) if document.strip()]
        text = continued + "".join(SEPARATOR + document for document in begun)
        spool.write((text if spool.size else text.removeprefix(SEPARATOR)).encode())
        last = others[-1] if others else first
        has_text = bool(last.strip()) or (has_text and not others)
        blank = "" if has_text else last
    return spool


def _is_character(block: bytes) -> np.ndarray:
    """Return for each byte whether it begins a character, bool (bytes,); separators are none."""
    symbols = np.frombuffer(block, np.int8)
    return (symbols >= _FIRST_BYTE) & (symbols != 0)
