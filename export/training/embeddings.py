"""Initial embeddings from a file in word2vec's text format, also used by GloVe and fastText.

A line is a token and its values, separated by spaces or tabs; word2vec and fastText have a header line `count width`.
Files are read line by line, and only requested vectors are parsed and kept: GloVe's files are gigabytes large.
"""

import contextlib
import gzip
import zlib
from collections.abc import Collection, Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from contract.tokenizers import Tokenizer
from export.corpora.encodings import decode
from export.errors import ConfigError, NotText
from export.terminal import echo

_GZIP, _ZIP, _MARK = b"\x1f\x8b", b"PK\x03\x04", b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
# A line of the widest embedding, 8,192 values, takes a quarter of that.
MAX_LINE_BYTES = 1 << 20
# Keras initializes an Embedding uniformly between -0.05 and 0.05.
KERAS_RANGE = 0.05
SHOWN_MISSING = 8


def read_embedding(path: Path, tokenizer: Tokenizer, width: int, seed: int) -> np.ndarray:
    """Read an initial embedding, float32 (vocab, width); reproducible for the same arguments. Vectors are not rescaled.

    Special tokens are initialized as in Keras. Tokens without a vector are sampled from the normal distribution with
    the mean and the standard deviation of the vectors. The file may be gzip-compressed.

    Raises:
        ConfigError: the file cannot be read, is no vector file, has another width or contains none of the tokens.
    """
    texts = [tokenizer.decode([token_id]) for token_id in range(len(tokenizer.tokens))]
    names = [_names(text) for text in texts]
    vector_of = read_vectors(path, {name for candidates in names for name in candidates}, width)
    vectors, is_known = np.zeros((len(texts), width), np.float32), np.zeros(len(texts), bool)
    for token_id, candidates in enumerate(names):
        name = next((name for name in candidates if name in vector_of), None)
        if name is not None:
            vectors[token_id], is_known[token_id] = vector_of[name], True
    has_text = np.array([bool(text) for text in texts])
    is_missing, is_special = has_text & ~is_known, ~has_text
    _echo_share(path, [texts[i] for i in np.flatnonzero(is_missing)], int(is_known.sum()))
    rng, available = np.random.default_rng([seed, 1]), vectors[is_known]
    # A single vector, or equal ones, have no deviation; missing tokens must still differ from each other.
    vectors[is_missing] = rng.normal(available.mean(), available.std() or KERAS_RANGE, (is_missing.sum(), width))
    vectors[is_special] = rng.uniform(-KERAS_RANGE, KERAS_RANGE, (is_special.sum(), width))
    return vectors


def _names(text: str) -> tuple[bytes, ...]:
    """Return the names to look up for a token in a vector file, in UTF-8, the best first.

    Vector files have words without the leading space that belongs to a token here. They contain neither white space nor
    incomplete characters.
    """
    if not text.strip() or "\ufffd" in text:
        return ()
    return text.encode(errors="surrogatepass"), text.strip().encode(errors="surrogatepass")


def _echo_share(path: Path, missing: list[str], num_found: int) -> None:
    total = num_found + len(missing)
    examples = ", ".join(map(repr, missing[:SHOWN_MISSING])) + (" …" if missing[SHOWN_MISSING:] else "")
    if not num_found:
        raise ConfigError(f"embedding_init {path}: it has none of the {total:,} tokens of the vocabulary: {examples}")
    absent = f"; it has no {examples}" if missing else ""
    echo(f"embedding from {path}: vectors of {num_found:,} of {total:,} tokens ({num_found / total:.1%}){absent}")


def read_vectors(path: Path, requested: Collection[bytes], width: int) -> dict[bytes, np.ndarray]:
    """Read the vectors of the requested tokens, which are UTF-8 and not only white space.

    Returns float32 (width,) for each requested token in the file; the first one of duplicates.
    """
    try:
        with contextlib.ExitStack() as files:
            return _parse_lines(_open(path, files), requested, width)
    except NotText as error:
        raise ConfigError(f"embedding_init {path}: {error}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"embedding_init {path}: {getattr(error, 'strerror', None) or error}") from error


def _parse_lines(lines: Iterator[bytes], requested: Collection[bytes], width: int) -> dict[bytes, np.ndarray]:
    vectors: dict[bytes, np.ndarray] = {}
    separator = None
    for number, content in enumerate(lines, 1):
        line = content.rstrip()
        if separator is None:
            fields = line.split(b"\t" if b"\t" in line else None)
            is_header = number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields)
            if number == 1:
                _require_width(int(fields[1]) if is_header else len(fields) - 1, width)
            if is_header:
                continue
            separator = b"\t" if b"\t" in line else b" "
        # Fast path: a file has a million lines, and nearly all of them have the usual form.
        if line.count(separator) == width:
            token, _, values = line.partition(separator)
        elif line:
            token, values = _split(line, number, width)
        else:
            continue
        if token in requested and token not in vectors:
            vectors[token] = _parse(values, number, width)
    return vectors


def _require_width(found: int, width: int) -> None:
    if found < 1:
        raise NotText("line 1: a token and its values are expected")
    if found != width:
        raise NotText(f"its vectors have {found} values, but embedding is {width}; give --embedding {found}")


def _split(line: bytes, number: int, width: int) -> tuple[bytes, bytes]:
    """Split a line whose token contains white space, or whose fields are separated by more than one space."""
    token, *values = line.rsplit(None, width)
    if len(values) == width - 1 and line[:1].isspace() and _is_number(token):
        return b" ", b""  # The token is white space, which the format cannot represent.
    extra = [field for field in token.split()[1:] if _is_number(field)]
    if len(values) < width or extra:
        count = len(values) + len(extra)
        raise NotText(f"line {number}: {width} values are expected, as in the lines before it, got {count}")
    return token, b" ".join(values)


def _parse(values: bytes, number: int, width: int) -> np.ndarray:
    fields = values.split()
    if len(fields) != width:
        raise NotText(f"line {number}: {width} values are expected, as in the lines before it, got {len(fields)}")
    for field in fields:
        if not _is_number(field):
            raise NotText(f"line {number}: {field.decode('utf-8', 'replace')!r} is not a number")
    with np.errstate(over="ignore"):
        vector = np.array(list(map(float, fields)), np.float32)
    if not np.all(np.isfinite(vector)):
        field = fields[int(np.argmin(np.isfinite(vector)))]
        raise NotText(f"line {number}: {field.decode()!r} is not a number that float32 can hold")
    return vector


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _open(path: Path, files: contextlib.ExitStack) -> Iterator[bytes]:
    """Return the lines of a file, each of limited length; check that it begins with UTF-8 text."""
    raw: BufferedIOBase = files.enter_context(path.open("rb", buffering=_HEAD_BYTES))
    if raw.peek(2)[:2] == _GZIP:
        raw = files.enter_context(gzip.GzipFile(fileobj=raw))
    head = raw.peek(_HEAD_BYTES)
    if head.startswith(_ZIP):
        raise NotText("this is a ZIP archive; unpack it first, with: unzip")
    decode(head[: head.rfind(b"\n") + 1] or head, str(path))
    if head.startswith(_MARK):
        raw.read(len(_MARK))
    return _limited_lines(raw)


def _limited_lines(file: BufferedIOBase) -> Iterator[bytes]:
    """Yield lines of limited length: a line of a gigabyte fits into a compressed file of a megabyte."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
        if len(line) > MAX_LINE_BYTES:
            raise NotText(f"line {number} must have at most {MAX_LINE_BYTES:,} bytes, got more")
        yield line
