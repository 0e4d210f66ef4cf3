"""Text from a file, a folder, standard input or the running Python, parted into documents.

Knows files and how documents are parted. Does not know tokens.
"""

import hashlib
import re
import sys
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, Literal

from export.encodings import decode
from export.errors import CorpusError, NotText

# The help topics that every Python carries: some 465,000 characters of English, no download, no licence question.
DEMO = "pydoc-topics"
Documents = Literal["none", "file", "lines", "blank-line"]


@dataclass(frozen=True)
class Corpus:
    """Documents of text, in order.

    Attributes:
        name: What it was called.
        documents: At least one, none of them empty.
        ends: Whether each document ends with an end mark; False where the corpus is one running text.
    """

    name: str
    documents: tuple[str, ...]
    ends: bool

    @property
    def num_characters(self) -> int:
        """Characters of all documents."""
        return sum(map(len, self.documents))

    def sha256(self) -> str:
        """Hash the documents and where they part."""
        return hashlib.sha256("\0".join(self.documents).encode()).hexdigest()

    def split(self, fraction: float) -> tuple["Corpus", "Corpus | None"]:
        """Hold out the last part.

        A running text is cut at a character, documents at the boundary nearest to it.

        Args:
            fraction: Of the characters, 0 to below 1. At 0 nothing is held out.

        Raises:
            CorpusError: there is too little text to hold out anything.
        """
        if fraction == 0:
            return self, None
        keep = round(self.num_characters * (1 - fraction))
        if not self.ends:
            head, tail = (self.documents[0][:keep],), (self.documents[0][keep:],)
        else:
            count = _boundary_nearest(self.documents, keep)
            head, tail = self.documents[:count], self.documents[count:]
        if not "".join(head) or not "".join(tail):
            raise CorpusError(
                f"corpus {self.name}: {self.num_characters} character(s) in {len(self.documents)} document(s) are too "
                f"few to hold out validation = {fraction}; give more text or --validation 0"
            )
        return Corpus(self.name, head, self.ends), Corpus(self.name, tail, self.ends)


def _boundary_nearest(documents: tuple[str, ...], place: int) -> int:
    """Return after how many documents to cut: at least one, and one is left if there are two."""
    boundaries = list(accumulate(map(len, documents)))[:-1]
    distances = [abs(boundary - place) for boundary in boundaries]
    return distances.index(min(distances)) + 1 if distances else 1


def read_corpus(
    source: str, documents: Documents = "none", stdin: BinaryIO | None = None, role: str = "corpus"
) -> Corpus:
    """Read text in UTF-8.

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
    texts = _read_texts(source, stdin, role)
    if documents == "none":
        parts = ["\n".join(texts)]
    elif documents == "file":
        parts = texts
    else:
        pattern = r"\n" if documents == "lines" else r"\n[ \t]*(?:\n[ \t]*)+"
        parts = [part for text in texts for part in re.split(pattern, text)]
        parts = [part.strip("\n") if documents == "blank-line" else part for part in parts]
    kept = tuple(part for part in parts if part.strip())
    if not kept:
        raise CorpusError(f"{role} {source}: there is no text in it")
    return Corpus(source, kept, ends=documents != "none")


def _read_texts(source: str, stdin: BinaryIO | None, role: str) -> list[str]:
    if source == "-":
        content = _read_stdin(stdin or (sys.stdin and sys.stdin.buffer), role)
        return [_decode(content, f"{role} standard input", None)]
    if source == DEMO:
        from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte that only the demo needs

        return [_without_tables(topics[name]) for name in sorted(topics)]
    path = Path(source)
    try:
        files = _files_below(path, role) if path.is_dir() else [path]
        return [_decode(file.read_bytes(), f"{role} {file}", str(file)) for file in files]
    except OSError as error:
        raise CorpusError(f"{role} {source}: {error.strerror or error}") from error


def _read_stdin(stdin: BinaryIO | None, role: str) -> bytes:
    if stdin is None:
        raise CorpusError(f"{role} -: standard input is closed")
    if stdin.isatty():
        print(f"reading the {role} from the terminal; Ctrl-D on a line of its own ends it", file=sys.stderr)
    return stdin.read()


def _without_tables(text: str) -> str:
    """Leave out the lines that draw tables: a generator would learn to rule lines before it learns to write."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(("|", "+-", "+=")))


def _files_below(folder: Path, role: str) -> list[Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        raise CorpusError(f"{role} {folder}: there is no file in this folder")
    return files


def _decode(content: bytes, name: str, path: str | None) -> str:
    """Decode UTF-8; every line end becomes a line feed."""
    try:
        text = decode(content, path)
    except NotText as error:
        raise CorpusError(f"{name}: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
