"""Subword tokenizer by byte-level BPE: it encodes any text, and decoding restores the text.

Tokens are byte strings, written in GPT-2's alphabet of 256 visible characters. The pre-tokenizer splits text into
words, numbers and runs of symbols, each with one leading space; no token crosses a split. Unlike GPT-2's, it keeps
combining marks with their letters (otherwise Devanagari, Thai or vocalized Hebrew fall apart), and the part after an
apostrophe with its word.
"""

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

from contract.errors import TokenizerError
from contract.tokenizers.huggingface import WHITE_SPACE, BytePairVocabulary, learn_merges, split_by
from contract.tokenizers.vocabulary import AT_THE_EDGE, END, PADDING, START, UNKNOWN, Detokenizer

DEFAULT_VOCAB_SIZE = 2000
_WORD = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
_SPLIT = split_by(rf" ?{_WORD}| ?\p{{N}}+| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+|{WHITE_SPACE}")
_AS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [_SPLIT, _AS_BYTES]}
# Merges are learned from words of at most 128 characters: the library scans the whole word for each merge. 2 million
# letters without a space took 106 s, and 15 s when split like this.
_LEARNT_FROM = {"type": "Sequence", "pretokenizers": [_SPLIT, split_by(r"[\s\S]{128}"), _AS_BYTES]}
_NUM_SPECIAL = 3

# Bytes that are visible in Latin-1 map to themselves, the others to the characters from U+0100 on, in order.
# https://github.com/openai/gpt-2/blob/master/src/encoder.py, `bytes_to_unicode`
_VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
BYTES = {chr(byte): byte for byte in sorted(_VISIBLE)} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
# Bytes that a label shows unescaped; a backslash would look like an escape.
_PRINTABLE = frozenset(range(0x20, 0x7F)) - {ord("\\")}
# UTF-8 continuation bytes, and the maximum number of them per character.
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_MAX_CONTINUATIONS = 3


class SubwordTokenizer(BytePairVocabulary):
    """A byte-level BPE tokenizer. Ids: padding, unknown (never used), start or end token, 256 bytes, merges."""

    unit = "subword"
    pre_tokenizer = PRE_TOKENIZER
    decoder = _AS_BYTES
    has_unknown = False

    def __init__(self, tokens: Sequence[str], merges: Iterable[Sequence[str]]) -> None:
        """Index a vocabulary.

        Args:
            tokens: Token of each id, special ones included, in GPT-2's alphabet.
            merges: Pairs of tokens to merge, by priority.

        Raises:
            TokenizerError: duplicate token, a special token or one of the 256 bytes is missing, or a merge is invalid.
        """
        super().__init__(tokens, merges)
        self._bytes = tuple(bytes(map(BYTES.__getitem__, text)) for text in self._texts)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = DEFAULT_VOCAB_SIZE, end_token: bool = False) -> Self:
        """Train BPE merges on the training texts, without the validation split.

        Training stops before `vocab_size` tokens if no pair occurs twice. With an end token, which can be sampled, each
        document ends with it.

        Raises:
            TokenizerError: `vocab_size` has no room for the bytes.
        """
        least = _NUM_SPECIAL + len(BYTES)
        if vocab_size < least:
            raise TokenizerError(f"vocab_size must be at least {least} (bytes and special tokens), got {vocab_size}")
        special = [PADDING, UNKNOWN, END if end_token else START]
        return cls(*learn_merges(texts, _LEARNT_FROM, vocab_size, special, sorted(BYTES)))

    @cached_property
    def max_token_characters(self) -> int | None:
        """Length of the longest token in bytes, as each character has at least one byte."""
        return max(map(len, self._bytes), default=1)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the joined bytes as text; invalid UTF-8 becomes U+FFFD, and special tokens have no bytes."""
        return _decode(self.join(token_ids))

    def join(self, token_ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids; special tokens have none."""
        return b"".join([self._bytes[i] for i in token_ids])

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:  # noqa: ARG002
        return self._bytes

    def offsets(self, text: str) -> list[int]:
        """Return the offset of the character that contains each token's first byte."""
        offsets, num_characters = [], 0
        for token_id in self.encode(text):
            token = self._bytes[token_id]
            offsets.append(num_characters - _is_continuation(token[0]))
            num_characters += sum(not _is_continuation(byte) for byte in token)
        return offsets

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:  # noqa: ARG002 - as anywhere
        return byte_detokenizer(self, backward=backward)

    def label(self, token_id: int) -> str:
        return byte_label(self._bytes[token_id], self.tokens[token_id])

    def _validate(self) -> None:
        vocabulary = self._text_ids
        missing = [character for character in BYTES if character not in vocabulary]
        if missing:
            raise TokenizerError(f"a vocabulary of subwords needs all 256 bytes, and {missing[0]!r} is missing")
        for token in vocabulary:
            if not token or not BYTES.keys() >= set(token):
                raise TokenizerError(f"token {token!r} is not written in GPT-2's alphabet of bytes")
        for left, right in self.merges:
            if not vocabulary.keys() >= {left, right, left + right}:
                raise TokenizerError(f"merge {left!r} {right!r}: both, and both together, must be in the vocabulary")


def _is_continuation(byte: int) -> bool:
    """Return whether a byte is a UTF-8 continuation byte."""
    return byte & 0xC0 == 0x80


def byte_label(token: bytes, name: str) -> str:
    r"""Return a token's text, its name if it has none, or `bytes:\xe2\x82` for incomplete characters."""
    try:
        return token.decode() or name
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(b) if b in _PRINTABLE else f"\\x{b:02x}" for b in token)


class _ByteVocabulary(Protocol):
    def join(self, token_ids: Iterable[int]) -> bytes: ...

    def label(self, token_id: int) -> str: ...


def byte_detokenizer(vocabulary: _ByteVocabulary, *, backward: bool) -> Detokenizer:
    """Return a detokenizer for byte-level tokens."""
    return _BackwardByteDetokenizer(vocabulary) if backward else _ByteDetokenizer(vocabulary)


class _ByteDetokenizer(Detokenizer):
    """A detokenizer that buffers the bytes of an incomplete character."""

    def __init__(self, tokenizer: _ByteVocabulary) -> None:
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

    def __init__(self, tokenizer: _ByteVocabulary) -> None:
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
        num_buffered = len(head) - len(head.lstrip(_CONTINUATIONS))
        self._buffer = content[:num_buffered]
        return content[num_buffered:]


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _characters_from(content: bytes, text: str, distance: int) -> int:
    """Return the number of characters from the one with the byte at `distance` from the end up to the end."""
    if not distance:
        return 0
    return len(text) + 1 - len(_decode(content[: len(content) - distance + 1]))
