"""Byte-level tokens: byte strings, written in GPT-2's alphabet of 256 visible characters, and their detokenization."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from contract.tokenizers.base import AT_THE_EDGE, Detokenizer, Tokenizer

# Bytes that are visible in Latin-1 map to themselves, the others to the characters from U+0100 on, in order.
# https://github.com/openai/gpt-2/blob/master/src/encoder.py, `bytes_to_unicode`
_VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
BYTES = {chr(byte): byte for byte in sorted(_VISIBLE)} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
# Begins the label of a token that is not whole characters.
PARTIAL = "bytes:"
# Bytes that a label shows unescaped; a backslash would look like an escape.
_PRINTABLE = frozenset(range(0x20, 0x7F)) - {ord("\\")}
# UTF-8 continuation bytes, and the maximum number of them per character.
CONTINUATIONS = bytes(range(0x80, 0xC0))
_MAX_CONTINUATIONS = 3


class ByteTexts(Tokenizer):
    """A tokenizer whose tokens are bytes."""

    # The bytes of each token; special tokens have none.
    _bytes: tuple[bytes, ...]

    def join(self, token_ids: Iterable[int]) -> bytes:
        return b"".join([self._bytes[i] for i in token_ids])

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the joined bytes as text; invalid UTF-8 becomes U+FFFD."""
        return _decode(self.join(token_ids))

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:  # noqa: ARG002
        return self._bytes

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:  # noqa: ARG002 - as anywhere
        return _BackwardByteDetokenizer(self) if backward else _ByteDetokenizer(self)

    def label(self, token_id: int) -> str:
        r"""Return a token's text, its name if it has none, or `bytes:\xe2\x82` for incomplete characters."""
        token = self._bytes[token_id]
        try:
            return token.decode() or self.tokens[token_id]
        except UnicodeDecodeError:
            return PARTIAL + "".join(chr(b) if b in _PRINTABLE else f"\\x{b:02x}" for b in token)


class _ByteDetokenizer(Detokenizer):
    """A detokenizer that buffers the bytes of an incomplete character."""

    def __init__(self, tokenizer: ByteTexts) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token_ids: Iterable[int]) -> str:
        return self._decoder.decode(self._tokenizer.join(token_ids))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is None:
            return self.flush(), ()
        buffered, token = self._decoder.getstate()[0], self._tokenizer.join((token_id,))
        # Buffered bytes become one U+FFFD before the token, unless the token's first byte continues their character.
        offsets = (len(_decode(buffered + token[:1])) - 1,) if buffered else AT_THE_EDGE
        return self._decoder.decode(token), offsets

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return self._decoder.getstate()[0].hex()

    def restore(self, saved: Any) -> None:
        self._decoder.setstate((bytes.fromhex(saved), 0))


class _BackwardByteDetokenizer(Detokenizer):
    """A backward detokenizer that buffers leading bytes of the text which a preceding byte may change.

    These are up to three continuation bytes: a fourth belongs to no character, whatever precedes it.
    """

    def __init__(self, tokenizer: ByteTexts) -> None:
        self._tokenizer = tokenizer
        self._buffer = b""
        # For each tracked token without a final offset: number of bytes from its first one to the end of the buffer.
        self._pending: list[int] = []

    def feed(self, token_ids: Iterable[int]) -> str:
        return _decode(self._prepend(self._tokenizer.join([*token_ids][::-1])))

    def flush(self) -> str:
        return self.track(None)[0]

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is None:
            final, self._buffer = self._buffer, b""
        else:
            token = self._tokenizer.join((token_id,))
            self._pending.append(len(token) + len(self._buffer))
            final = self._prepend(token)
        text, count = _decode(final), len(final)
        offsets = [_characters_from(final, text, distance) for distance in self._pending if distance <= count]
        self._pending = [distance - count for distance in self._pending if distance > count]
        return text, offsets

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return self._buffer.hex()

    def restore(self, saved: Any) -> None:
        self._buffer = bytes.fromhex(saved)

    def _prepend(self, content: bytes) -> bytes:
        """Prepend bytes to the buffer; remove and return the bytes that are final."""
        content += self._buffer
        head = content[:_MAX_CONTINUATIONS]
        num_buffered = len(head) - len(head.lstrip(CONTINUATIONS))
        self._buffer = content[:num_buffered]
        return content[num_buffered:]


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _characters_from(content: bytes, text: str, distance: int) -> int:
    """Return the number of characters from the one with the byte at `distance` from the end up to the end."""
    if not distance:
        return 0
    return len(text) + 1 - len(_decode(content[: len(content) - distance + 1]))
