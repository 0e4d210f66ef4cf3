"""Where text comes from: a file, a folder, standard input or the running Python; part by part, in UTF-8.

Knows files and line ends. Does not know documents.
"""

import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.corpora.encodings import decode_file
from export.corpora.progress import ProgressLine
from export.corpora.spool import BLOCK_BYTES, Spool
from export.errors import CorpusError, NotText

# The help topics that every Python carries: some 465,000 characters of English, no download, no licence question.
DEMO = "pydoc-topics"


def read_texts(source: str, stdin: BinaryIO | None, role: str) -> Iterator[Iterator[str]]:
    """Yield the texts of a source, each as its parts; one must be gone through before the next is asked for.

    Args:
        source: A file, a folder (its files in order of their paths, hidden ones left out), `-` for standard input, or
            `pydoc-topics`.
        stdin: Read for `-`; None for the process's own.
        role: The option that named it, for messages.

    Raises:
        CorpusError: nothing to read, not UTF-8 or binary.
    """
    if source == DEMO:
        from pydoc_data.topics import topics  # noqa: PLC0415 - half a megabyte that only the demo needs

        yield from (iter([_without_tables(topics[name])]) for name in sorted(topics))
    elif source == "-":
        yield _standard_input(stdin or (sys.stdin and sys.stdin.buffer), role)
    else:
        files = _files(Path(source), role)
        # What is no regular file, such as a pipe, has no size before it is read.
        with ProgressLine("reading", sum(size for _, size in files) or None) as waiting:
            yield from (_file_parts(file, source, role, waiting) for file, _ in files)


def _files(path: Path, role: str) -> list[tuple[Path, int]]:
    try:
        files = _files_below(path, role) if path.is_dir() else [path]
        return [(file, file.stat().st_size) for file in files]
    except OSError as error:
        raise CorpusError(f"{role} {path}: {error.strerror or error}") from error


def _files_below(folder: Path, role: str) -> list[Path]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        raise CorpusError(f"{role} {folder}: there is no file in this folder")
    return files


def _file_parts(file: Path, source: str, role: str, waiting: ProgressLine) -> Iterator[str]:
    try:
        with file.open("rb") as opened:
            is_regular = stat.S_ISREG(os.fstat(opened.fileno()).st_mode)
            copy = None if is_regular else _copied(opened)
            yield from _decoded(copy.file if copy else opened, f"{role} {file}", str(file), waiting)
    except OSError as error:
        raise CorpusError(f"{role} {source}: {error.strerror or error}") from error


def _standard_input(stdin: BinaryIO | None, role: str) -> Iterator[str]:
    if stdin is None:
        raise CorpusError(f"{role} -: standard input is closed")
    if stdin.isatty():
        print(f"reading the {role} from the terminal; Ctrl-D on a line of its own ends it", file=sys.stderr)
    copy = _copied(stdin)
    with ProgressLine("reading", copy.size) as waiting:
        yield from _decoded(copy.file, f"{role} standard input", None, waiting)


def _copied(pipe: BinaryIO) -> Spool:
    """Return what comes through a pipe as a file: why it is refused can be told only from all of it."""
    copy = Spool()
    with ProgressLine("reading", None) as waiting:
        while block := pipe.read(BLOCK_BYTES):
            copy.write(block)
            waiting.step(len(block))
    copy.file.seek(0)
    return copy


def _decoded(file: BinaryIO, name: str, path: str | None, waiting: ProgressLine) -> Iterator[str]:
    """Yield the parts of a file's text; every line end becomes a line feed."""
    line_ends = io.IncrementalNewlineDecoder(None, translate=True)
    try:
        for part in decode_file(file, path):
            waiting.step(len(part))
            yield line_ends.decode(part)
    except NotText as error:
        raise CorpusError(f"{name}: {error}") from error
    yield line_ends.decode("", final=True)


def _without_tables(text: str) -> str:
    """Leave out the lines that draw tables: a generator would learn to rule lines before it learns to write."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(("|", "+-", "+=")))
