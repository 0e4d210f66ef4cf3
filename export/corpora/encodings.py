"""Decoding of UTF-8, and detection of the likely encoding of other bytes for the error message.

Knows encodings. Does not know where the bytes come from. Never decodes with a guessed encoding.
"""

import codecs
import mmap
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from export.corpora.spool import BLOCK_BYTES
from export.errors import NotText

# Size of the sample for detection, from the first line that is not UTF-8 on.
SAMPLE_BYTES = 1 << 16
# Python's name to iconv's, most common first: the order breaks ties between encodings that decode the bytes alike.
_ENCODINGS = {
    "cp1252": "CP1252",
    "cp1251": "CP1251",
    "cp932": "CP932",
    "gb18030": "GB18030",
    "big5": "BIG5",
    "euc_jp": "EUC-JP",
    "cp949": "CP949",
    "koi8_r": "KOI8-R",
    "iso8859_2": "ISO-8859-2",
    "cp1250": "CP1250",
    "cp1253": "CP1253",
    "cp1254": "CP1254",
    "cp1255": "CP1255",
    "cp1256": "CP1256",
    "cp1257": "CP1257",
    "cp874": "CP874",
    "cp866": "CP866",
    "mac_roman": "MACINTOSH",
}
# UTF-32 first: its byte order mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_WIDE = ("UTF-32LE", "UTF-32BE", "UTF-16LE", "UTF-16BE")
_CONTROLS = frozenset("\t\n\f\r\ufeff")
# Bytes, or a rejected file that is memory-mapped for the analysis.
_Content = bytes | mmap.mmap


def decode(content: bytes, path: str | None = None) -> str:
    """Decode UTF-8, with or without a byte order mark. The path is for the suggested conversion command.

    Raises:
        NotText: the content is binary, damaged or in another encoding; the message names the most likely one.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refusal(content, path, error, len(content)) from error
    if b"\0" in content:
        raise _refusal(content, path)
    return text


def decode_file(file: BinaryIO, path: str | None = None) -> Iterator[str]:
    """Decode a file incrementally, with the same result as `decode`: it may not fit into memory.

    Yields non-empty parts.

    Raises:
        NotText: as `decode` does; parts yielded before are valid.
    """
    decoder, num_read = codecs.getincrementaldecoder("utf-8-sig")(), 0
    block = None
    while block != b"":
        block = file.read(BLOCK_BYTES)
        num_read += len(block)
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _refusal_of_file(file, path, error, num_read) from error
        if b"\0" in block:
            raise _refusal_of_file(file, path)
        if text:
            yield text


def _refusal_of_file(
    file: BinaryIO, path: str | None, error: UnicodeDecodeError | None = None, num_read: int = 0
) -> NotText:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _refusal(content, path, error, num_read)


def _refusal(
    content: _Content, path: str | None, error: UnicodeDecodeError | None = None, num_read: int = 0
) -> NotText:
    """Return the error that describes why the content was rejected.

    `error` is the first UTF-8 error, or None if the content has a zero byte; `num_read` is the offset in the content of
    the end of `error.object`.
    """
    wide = _wide_encoding(content)
    if wide is not None:
        return NotText(f"this is {wide}, not UTF-8; {_conversion(wide, path)}")
    zero = content.find(b"\0")
    if error is None or zero >= 0:
        return NotText(f"byte 0 at offset {zero}: this is binary, not text")
    # `error.start` counts from the beginning of `error.object`: without the byte order mark and the parts before.
    offset = error.start + num_read - len(error.object)
    return NotText(_describe(content, offset, path, cut_short="end of data" in error.reason))


def _describe(content: _Content, offset: int, path: str | None, *, cut_short: bool) -> str:
    where = f"byte {content[offset]:#04x} at offset {offset}"
    if cut_short:
        return f"not UTF-8: {where} starts a character whose other bytes are missing"
    if not all(content[i : min(i + BLOCK_BYTES, offset)].isascii() for i in range(0, offset, BLOCK_BYTES)):
        return f"not UTF-8 from {where} on; the file is damaged, or mixes two encodings"
    guesses = _guess(_sample(content, offset))
    if not guesses:
        return f"not UTF-8: {where}, and no other known encoding fits"
    others = f" (or {' or '.join(guesses[1:3])})" if guesses[1:] else ""
    return f"not UTF-8 but most likely {guesses[0]}{others}: {where}; {_conversion(guesses[0], path)}"


def _conversion(encoding: str, path: str | None) -> str:
    command = ["iconv", "-f", encoding, "-t", "UTF-8"]
    if path is None:
        return f"convert it first, with: {shlex.join(command)}"
    target = Path(path).with_suffix(".utf-8" + Path(path).suffix)
    return f"convert it first, with: {shlex.join([*command, path])} > {shlex.quote(str(target))}"


def _wide_encoding(content: _Content) -> str | None:
    """Return the name of the encoding if it is UTF-16 or UTF-32."""
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content[: len(mark)] == mark:
            return encoding
    if content.find(b"\0") < 0:
        return None
    return next((encoding for encoding in _WIDE if _is_wide(content, encoding)), None)


def _is_wide(content: _Content, encoding: str) -> bool:
    """Return whether content without a byte order mark is text in this UTF-16 or UTF-32 encoding.

    Such text has few distinct high bytes and many distinct low bytes; otherwise it is another encoding with zero bytes.
    """
    width, little = (4 if "32" in encoding else 2), encoding.endswith("LE")
    if len(content) % width:
        return False
    sample = content[:SAMPLE_BYTES]
    high, low = sample[width - 1 if little else 0 :: width], sample[0 if little else width - 1 :: width]
    if 0 in low or len(set(high)) >= len(set(low)):
        return False
    try:
        # Incremental: the sample may end inside a character.
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    return all(c in _CONTROLS or unicodedata.category(c) not in {"Cc", "Cn", "Co"} for c in text)


def _sample(content: _Content, offset: int) -> bytes:
    """Return a sample from the first line that is not UTF-8 on."""
    start = max(content.rfind(b"\n", 0, offset) + 1, offset - SAMPLE_BYTES // 8)
    sample = content[start : start + SAMPLE_BYTES]
    if start + SAMPLE_BYTES < len(content):
        # Do not end inside a character: neither byte is part of a multi-byte character in any of these encodings.
        sample = sample[: max(sample.rfind(b"\n"), sample.rfind(b" ")) + 1] or sample
    return sample


def _guess(sample: bytes) -> list[str]:
    """Return iconv's names of the possible encodings, most likely first."""
    from charset_normalizer import from_bytes  # noqa: PLC0415 - 40 ms that only a bad file needs

    order = list(_ENCODINGS)
    matches = list(from_bytes(sample, cp_isolation=order, enable_fallback=False))
    matches = [match for match in matches if match.encoding in _ENCODINGS]
    # Of the encodings that decode the bytes to the same text, the most common one counts.
    first = [min(order.index(name) for name in match.could_be_from_charset if name in _ENCODINGS) for match in matches]
    ranked = sorted((match.chaos, -match.coherence, index) for match, index in zip(matches, first, strict=True))
    return [_ENCODINGS[order[index]] for _, _, index in ranked]
