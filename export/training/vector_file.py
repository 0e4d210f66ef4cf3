"""Vectors of tokens from a file in word2vec's text form, which GloVe and fastText have too, or a projector's pair.

A line is a token and its values, parted by spaces or tabs; word2vec and fastText have a first line `count width`. The
pair is TensorFlow's embedding projector's: `vectors.tsv`, and beside it `metadata.tsv` with the tokens. Files are read
line by line, and only what is wanted is kept or looked at closely: GloVe's have gigabytes.

Knows lines and numbers. Does not know tokenizers or models.
"""

import contextlib
import gzip
import zlib
from collections.abc import Collection, Iterator
from io import BufferedIOBase
from itertools import chain, count, zip_longest
from pathlib import Path

import numpy as np

from export.corpora.encodings import decode
from export.errors import ConfigError, NotText

VECTORS, METADATA = "vectors.tsv", "metadata.tsv"
_GZIP, _ZIP, _MARK = b"\x1f\x8b", b"PK\x03\x04", b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
# The widest embedding of 8,192 values has a quarter of that.
MAX_LINE_BYTES = 1 << 20


def read_vectors(path: Path, wanted: Collection[bytes], width: int) -> dict[bytes, np.ndarray]:
    """Read the vectors of some tokens.

    Args:
        path: The file, which may be compressed by gzip, or `vectors.tsv`.
        wanted: Tokens in UTF-8. None of them is white space alone.
        width: Values that each vector must have.

    Returns:
        float32 (width,) for each token that the file holds; the first, if it holds several.

    Raises:
        ConfigError: the file cannot be read, is not text, or a line is not as it must be.
    """
    try:
        with contextlib.ExitStack() as files:
            return _Reader(path, width).read(_lines(path, files), wanted)
    except NotText as error:
        raise ConfigError(f"embedding_init {path}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        name = getattr(error, "filename", None) or path
        raise ConfigError(f"embedding_init {name}: {getattr(error, 'strerror', None) or error}") from error


class _Reader:
    """What is known of a file while its lines go by."""

    def __init__(self, path: Path, width: int) -> None:
        self._path, self._width = path, width

    def read(self, lines: Iterator[bytes], wanted: Collection[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, np.ndarray] = {}
        separator = None
        for number, content in enumerate(lines, 1):
            line = content.rstrip()
            if separator is None:
                if number == 1 and self._is_header(line):
                    continue
                separator = self._begin(line, number)
            # A million lines: what is as it usually is takes the short way.
            if line.count(separator) == self._width:
                token, _, values = line.partition(separator)
            elif line:
                token, values = self._part(line, number)
            else:
                continue
            if token in wanted and token not in found:
                found[token] = self._parse(values, number)
        return found

    def _is_header(self, line: bytes) -> bool:
        """Say whether this is `count width`, and hold its width against what is asked for."""
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            return False
        self._require_width(int(fields[1]))
        return True

    def _begin(self, line: bytes, number: int) -> bytes:
        """Take the width from the first vector, and what its token and values are parted by."""
        by_tabs = b"\t" in line
        if number == 1:
            self._require_width(len(line.split(b"\t" if by_tabs else None)) - 1)
        return b"\t" if by_tabs else b" "

    def _require_width(self, width: int) -> None:
        if width < 1:
            raise ConfigError(f"embedding_init {self._path}: line 1: a token and its values are expected")
        if width != self._width:
            raise ConfigError(
                f"embedding_init {self._path}: its vectors have {width} values, and embedding is {self._width}; "
                f"give --embedding {width}"
            )

    def _part(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Part a line whose token has white space in it, or whose fields are set off by more than one."""
        token, *values = line.rsplit(None, self._width)
        if len(values) == self._width - 1 and line[:1].isspace() and _is_number(token):
            return b" ", b""  # The token is white space, which the file's form cannot tell.
        extra = [field for field in token.split()[1:] if _is_number(field)]
        if len(values) < self._width or extra:
            count = len(values) + len(extra)
            raise self._wrong(number, f"{self._width} values are expected, as in the lines before it, got {count}")
        return token, b" ".join(values)

    def _parse(self, values: bytes, number: int) -> np.ndarray:
        fields = values.split()
        for field in fields:
            if not _is_number(field):
                raise self._wrong(number, f"{field.decode('utf-8', 'replace')!r} is not a number")
        with np.errstate(over="ignore"):
            vector = np.array(list(map(float, fields)), np.float32)
        if not np.all(np.isfinite(vector)):
            field = fields[int(np.argmin(np.isfinite(vector)))]
            raise self._wrong(number, f"{field.decode()!r} is not a number that float32 can hold")
        return vector

    def _wrong(self, number: int, problem: str) -> ConfigError:
        return ConfigError(f"embedding_init {self._path}: line {number}: {problem}")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _lines(path: Path, files: contextlib.ExitStack) -> Iterator[bytes]:
    """Return the lines of a file, or of a projector's pair with the tokens put before the values."""
    lines = _open(path, files)
    if path.name != VECTORS:
        return lines
    labels = _open(path.with_name(METADATA), files)
    first = next(labels, b"")
    # Several columns have a line of titles, one column has none.
    return _pairs(path, lines, labels if b"\t" in first else chain([first], labels))


def _pairs(path: Path, lines: Iterator[bytes], labels: Iterator[bytes]) -> Iterator[bytes]:
    for number, (line, label) in enumerate(zip_longest(lines, labels), 1):
        if line is None or label is None:
            shorter = path if line is None else path.with_name(METADATA)
            raise ConfigError(
                f"embedding_init {path}: {shorter.name} has only {number - 1} tokens, the other file more"
            )
        yield label.rstrip(b"\r\n").partition(b"\t")[0] + b"\t" + line


def _open(path: Path, files: contextlib.ExitStack) -> Iterator[bytes]:
    """Return the lines of a file that begins as text does, in UTF-8."""
    raw = files.enter_context(path.open("rb", buffering=_HEAD_BYTES))
    if raw.peek(2)[:2] == _GZIP:
        raw = files.enter_context(gzip.GzipFile(fileobj=raw))
    head = raw.peek(_HEAD_BYTES)
    if head.startswith(_ZIP):
        raise NotText("this is a ZIP archive; unpack it first, with: unzip")
    decode(head[: head.rfind(b"\n") + 1] or head, str(path))
    if head.startswith(_MARK):
        raw.read(len(_MARK))
    return _bounded_lines(raw, path)


def _bounded_lines(file: BufferedIOBase, path: Path) -> Iterator[bytes]:
    """Yield lines; a compressed file of a megabyte may hold one of a gigabyte, which is refused before it is read."""
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(
                f"embedding_init {path}: line {number} must have at most {MAX_LINE_BYTES:,} bytes, got more"
            )
        if not line:
            return
        yield line
