"""Reads token vectors from a file in word2vec's text format, also used by GloVe and fastText, or from projector files.

A line is a token and its values, separated by spaces or tabs; word2vec and fastText have a header line `count width`.
The projector files are those of TensorFlow's Embedding Projector: `vectors.tsv`, and next to it `metadata.tsv` with the
tokens. Files are read line by line, and only requested vectors are parsed and kept: GloVe's files have gigabytes.

Knows lines and numbers. Does not know tokenizers or models.
"""

import contextlib
import gzip
import zlib
from collections.abc import Collection, Iterator
from io import BufferedIOBase
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from export.corpora.encodings import decode
from export.errors import ConfigError, NotText

VECTORS, METADATA = "vectors.tsv", "metadata.tsv"
_GZIP, _ZIP, _MARK = b"\x1f\x8b", b"PK\x03\x04", b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
# A line of the widest embedding, 8,192 values, has a quarter of that.
MAX_LINE_BYTES = 1 << 20


def read_vectors(path: Path, requested: Collection[bytes], width: int) -> dict[bytes, np.ndarray]:
    """Read the vectors of the requested tokens, in UTF-8, none of them only white space.

    The file may be gzip-compressed, or `vectors.tsv`.

    Returns float32 (width,) for each requested token in the file; the first one of duplicates.

    Raises:
        ConfigError: the file cannot be read, is not text, or has a malformed line.
    """
    try:
        with contextlib.ExitStack() as files:
            return _Reader(path, width).read(_lines(path, files), requested)
    except NotText as error:
        raise ConfigError(f"embedding_init {path}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        name = getattr(error, "filename", None) or path
        raise ConfigError(f"embedding_init {name}: {getattr(error, 'strerror', None) or error}") from error


class _Reader:
    """Parser of a vector file."""

    def __init__(self, path: Path, width: int) -> None:
        self._path, self._width = path, width

    def read(self, lines: Iterator[bytes], requested: Collection[bytes]) -> dict[bytes, np.ndarray]:
        vectors: dict[bytes, np.ndarray] = {}
        separator = None
        for number, content in enumerate(lines, 1):
            line = content.rstrip()
            if separator is None:
                if number == 1 and self._is_header(line):
                    continue
                separator = self._separator(line, number)
            # Fast path: a file has a million lines, and nearly all of them have the usual form.
            if line.count(separator) == self._width:
                token, _, values = line.partition(separator)
            elif line:
                token, values = self._split(line, number)
            else:
                continue
            if token in requested and token not in vectors:
                vectors[token] = self._parse(values, number)
        return vectors

    def _is_header(self, line: bytes) -> bool:
        """Return whether this is a header `count width`; if so, check its width."""
        fields = line.split()
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            return False
        self._require_width(int(fields[1]))
        return True

    def _separator(self, line: bytes, number: int) -> bytes:
        """Return the separator of the first vector; without a header, check its width."""
        by_tabs = b"\t" in line
        if number == 1:
            self._require_width(len(line.split(b"\t" if by_tabs else None)) - 1)
        return b"\t" if by_tabs else b" "

    def _require_width(self, width: int) -> None:
        if width < 1:
            raise ConfigError(f"embedding_init {self._path}: line 1: a token and its values are expected")
        if width != self._width:
            raise ConfigError(
                f"embedding_init {self._path}: its vectors have {width} values, but embedding is {self._width}; "
                f"give --embedding {width}"
            )

    def _split(self, line: bytes, number: int) -> tuple[bytes, bytes]:
        """Split a line whose token contains white space, or whose fields are separated by more than one space."""
        token, *values = line.rsplit(None, self._width)
        if len(values) == self._width - 1 and line[:1].isspace() and _is_number(token):
            return b" ", b""  # The token is white space, which the format cannot represent.
        extra = [field for field in token.split()[1:] if _is_number(field)]
        if len(values) < self._width or extra:
            count = len(values) + len(extra)
            raise self._line_error(number, f"{self._width} values are expected, as in the lines before it, got {count}")
        return token, b" ".join(values)

    def _parse(self, values: bytes, number: int) -> np.ndarray:
        fields = values.split()
        for field in fields:
            if not _is_number(field):
                raise self._line_error(number, f"{field.decode('utf-8', 'replace')!r} is not a number")
        with np.errstate(over="ignore"):
            vector = np.array(list(map(float, fields)), np.float32)
        if not np.all(np.isfinite(vector)):
            field = fields[int(np.argmin(np.isfinite(vector)))]
            raise self._line_error(number, f"{field.decode()!r} is not a number that float32 can hold")
        return vector

    def _line_error(self, number: int, problem: str) -> ConfigError:
        return ConfigError(f"embedding_init {self._path}: line {number}: {problem}")


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _lines(path: Path, files: contextlib.ExitStack) -> Iterator[bytes]:
    """Return the lines of a file; for projector files, each token is prepended to its values."""
    lines = _open(path, files)
    if path.name != VECTORS:
        return lines
    labels = _open(path.with_name(METADATA), files)
    first = next(labels, b"")
    # Metadata of several columns has a header line, metadata of one column has none.
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
    """Return the lines of a file; check that it begins with UTF-8 text."""
    raw = files.enter_context(path.open("rb", buffering=_HEAD_BYTES))
    if raw.peek(2)[:2] == _GZIP:
        raw = files.enter_context(gzip.GzipFile(fileobj=raw))
    head = raw.peek(_HEAD_BYTES)
    if head.startswith(_ZIP):
        raise NotText("this is a ZIP archive; unpack it first, with: unzip")
    decode(head[: head.rfind(b"\n") + 1] or head, str(path))
    if head.startswith(_MARK):
        raw.read(len(_MARK))
    return _limited_lines(raw, path)


def _limited_lines(file: BufferedIOBase, path: Path) -> Iterator[bytes]:
    """Yield lines of limited length: a line of a gigabyte fits into a compressed file of a megabyte."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > MAX_LINE_BYTES:
            raise ConfigError(
                f"embedding_init {path}: line {number} must have at most {MAX_LINE_BYTES:,} bytes, got more"
            )
        yield line
