"""Decoding of UTF-8; errors for other bytes name the likely encoding and the command that converts them."""

import codecs
import io
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.corpora.spool import BLOCK_BYTES
from export.errors import NotText

# Size of the sample for detection, starting with the first line that is not UTF-8.
SAMPLE_BYTES = 1 << 16
# Python's names, most common first: the order breaks ties between encodings that decode the bytes alike.
_ENCODINGS = [
    *("cp1252", "cp1251", "cp932", "gb18030", "big5", "euc_jp", "cp949", "koi8_r", "iso8859_2", "cp1250", "cp1253"),
    *("cp1254", "cp1255", "cp1256", "cp1257", "cp874", "cp866", "mac_roman"),
]
# UTF-32 first: its byte order mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def decode(content: bytes, path: str | None = None) -> str:
    """Decode UTF-8, with or without a byte order mark. The path is for the suggested conversion command.

    Raises:
        NotText: the content is binary, damaged or in another encoding; the message names the most likely one.
    """
    return "".join(decode_file(io.BytesIO(content), path))


def decode_file(file: BinaryIO, path: str | None = None) -> Iterator[str]:
    """Decode a file as `decode` does, but in non-empty parts: it may not fit into memory."""
    decoder, num_read, is_ascii = codecs.getincrementaldecoder("utf-8-sig")(), 0, True
    block = None
    while block != b"":
        block = file.read(BLOCK_BYTES)
        num_read += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            # It begins with the end of the previous block if a character crosses the boundary.
            offset = num_read - len(error.object) + error.start
            is_ascii = is_ascii and error.object[: error.start].isascii()
            content = error.object + file.read(SAMPLE_BYTES)
            raise NotText(_describe(content, error, offset, path, is_ascii=is_ascii)) from error
        if b"\0" in block:
            raise NotText(_binary(num_read - len(block) + block.index(b"\0")))
        is_ascii = is_ascii and text.isascii()
        if text:
            yield text


def _binary(offset: int) -> str:
    return f"byte 0 at offset {offset}: this is binary, not text"


def _describe(content: bytes, error: UnicodeDecodeError, offset: int, path: str | None, *, is_ascii: bool) -> str:
    """Explain an error at `error.start` of some content, which is the byte `offset` of its file."""
    mark = next((mark for mark in _BYTE_ORDER_MARKS if offset == error.start and content.startswith(mark)), None)
    if mark is not None:
        return f"this is {_BYTE_ORDER_MARKS[mark]}, not UTF-8; {_conversion(_BYTE_ORDER_MARKS[mark], path)}"
    if b"\0" in content:
        return _binary(offset - error.start + content.index(b"\0"))
    where = f"byte {content[error.start]:#04x} at offset {offset}"
    if "end of data" in error.reason:
        return f"not UTF-8: {where} starts a character whose other bytes are missing"
    if not is_ascii:
        return f"not UTF-8 from {where} on; the file is damaged, or mixes two encodings"
    start = max(content.rfind(b"\n", 0, error.start) + 1, error.start - SAMPLE_BYTES // 8)
    guesses = _guess(content[start : start + SAMPLE_BYTES])
    if not guesses:
        return f"not UTF-8: {where}, and no other known encoding fits"
    others = f" (or {' or '.join(guesses[1:3])})" if guesses[1:] else ""
    return f"not UTF-8 but most likely {guesses[0]}{others}: {where}; {_conversion(guesses[0], path)}"


def _conversion(encoding: str, path: str | None) -> str:
    command = f"convert it first, with: iconv -f {encoding} -t UTF-8"
    if path is None:
        return command
    target = Path(path).with_suffix(".utf-8" + Path(path).suffix)
    return f"{command} {shlex.quote(path)} > {shlex.quote(str(target))}"


def _guess(sample: bytes) -> list[str]:
    """Return iconv's names of the possible encodings, most likely first."""
    from charset_normalizer import from_bytes  # noqa: PLC0415 - 40 ms that only a bad file needs

    # Do not end inside a character: neither byte is part of a multi-byte character in any of these encodings.
    sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    matches = from_bytes(sample, cp_isolation=_ENCODINGS, enable_fallback=False)
    matches = [match for match in matches if match.encoding in _ENCODINGS]
    # If several encodings decode the bytes to the same text, the most common one counts.
    common = [next(name for name in _ENCODINGS if name in match.could_be_from_charset) for match in matches]
    ranked = sorted(
        (match.chaos, -match.coherence, _ENCODINGS.index(name)) for match, name in zip(matches, common, strict=True)
    )
    names = [_ENCODINGS[i] for _, _, i in ranked]
    return ["MACINTOSH" if name == "mac_roman" else name.upper().replace("_", "-") for name in names]
