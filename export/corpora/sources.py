"""Text sources: files, directories, standard input and the corpora by name, read incrementally as UTF-8."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.corpora.documents import RecordReader
from export.corpora.encodings import decode_file
from export.corpora.packaged import READERS
from export.errors import CorpusError, NotText
from export.terminal import ProgressLine


def read_texts(source: str, role: str, records: RecordReader | None = None) -> Iterator[Iterator[str]]:
    """Yield the texts of a source, each as an iterator of parts. Exhaust each text before advancing to the next.

    With `records`, files are JSON Lines or CSV, and each record is a text.

    Arguments and errors are those of `export.corpora.corpus.read_corpus`.
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
                yield from _texts(_file_parts(file, source, role, progress), file, role, records)


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


def _file_parts(file: Path, source: str, role: str, progress: ProgressLine) -> Iterator[str]:
    try:
        with file.open("rb") as opened:
            yield from _decode(opened, f"{role} {file}", str(file), progress)
    except OSError as error:
        raise CorpusError(f"{role} {source}: {error.strerror or error}") from error


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
            progress.step(len(part))
            yield line_ends.decode(part)
    except NotText as error:
        raise CorpusError(f"{name}: {error}") from error
    yield line_ends.decode("", final=True)
