"""Pieces of words by byte pair encoding: every text can be encoded, and decoding gives it back.

Tokens are bytes, written in GPT-2's alphabet of 256 visible characters. Words, numbers and runs of signs take a single
space before them along, and no token reaches across two of them. Unlike in GPT-2's rule combining marks belong to their
letters, without which Devanagari, Thai or vocalized Hebrew fall apart, and what follows an apostrophe to its word.
"""

import codecs
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

from contract.errors import TokenizerError
from contract.tokenizers.huggingface import WHITE_SPACE, Engine, byte_pairs, encoding_bytes, learn_merges, split_by
from contract.tokenizers.vocabulary import AT_THE_EDGE, END, PADDING, START, UNKNOWN, Detokenizer, Vocabulary

DEFAULT_VOCAB_SIZE = 2000
_WORD = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
_SPLIT = split_by(rf" ?{_WORD}| ?\p{{N}}+| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+|{WHITE_SPACE}")
_AS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [_SPLIT, _AS_BYTES]}
# Merges are learnt from words of at most 128 characters: the library goes through the whole of a word for each of them,
# and 2 million letters without a space took 106 s, so cut 15.
_LEARNT_FROM = {"type": "Sequence", "pretokenizers": [_SPLIT, split_by(r"[\s\S]{128}"), _AS_BYTES]}
_NUM_SPECIAL = 3

# Bytes that are visible in Latin-1 are themselves, the others the characters from U+0100 in order.
# https://github.com/openai/gpt-2/blob/master/src/encoder.py, `bytes_to_unicode`
_VISIBLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _VISIBLE]
BYTES = {chr(byte): byte for byte in sorted(_VISIBLE)} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
# What a label shows as it is; a backslash could be taken for the beginning of a byte.
_PRINTABLE = frozenset(range(0x20, 0x7F)) - {ord("\\")}
# Bytes of UTF-8 that go on with a character, and how many of them a character has at most.
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_MAX_CONTINUATIONS = 3


class SubwordTokenizer(Vocabulary):
    """Byte pair encoding. Ids: padding, unknown (which nothing is), the start or end mark, 256 bytes, the merges."""

    unit = "subword"
    unknown = UNKNOWN

    def __init__(self, tokens: Sequence[str], merges: Iterable[Sequence[str]]) -> None:
        """Index a vocabulary.

        Args:
            tokens: Token of each id, special ones included, in GPT-2's alphabet.
            merges: Pairs of tokens, the first to be merged first.

        Raises:
            TokenizerError: a token stands twice, a special one or one of the 256 bytes is missing, or a merge is none.
        """
        super().__init__(tokens)
        self.merges = tuple((left, right) for left, right in merges)
        self._require_sound()
        self._bytes = tuple(bytes(map(BYTES.__getitem__, text)) for text in self._texts)
        self._engine = Engine(self._model(), PRE_TOKENIZER)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = DEFAULT_VOCAB_SIZE, end_mark: bool = False) -> Self:
        """Learn which bytes go together.

        Args:
            texts: The training texts; what is held out must not be among them.
            vocab_size: Bound of all tokens together. It is not reached where no pair occurs twice any more.
            end_mark: Whether documents end, and their end can be drawn.

        Raises:
            TokenizerError: `vocab_size` has no room for the bytes.
        """
        least = _NUM_SPECIAL + len(BYTES)
        if vocab_size < least:
            raise TokenizerError(f"vocab_size must be at least {least} (bytes and special tokens), got {vocab_size}")
        special = [PADDING, UNKNOWN, END if end_mark else START]
        return cls(*learn_merges(texts, _LEARNT_FROM, vocab_size, special, sorted(BYTES)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubwordTokenizer) and (self.tokens, self.merges) == (other.tokens, other.merges)

    def __hash__(self) -> int:
        return hash((self.tokens, self.merges))

    @cached_property
    def max_token_characters(self) -> int | None:
        """The bytes of the longest token, as a character has one at least."""
        return max(map(len, self._bytes), default=1)

    def encoding_bytes(self, num_bytes: int) -> int:
        """See `Tokenizer`."""
        return encoding_bytes(num_bytes)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; none is unknown."""
        return self._engine.encode(text)

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the bytes joined, as text; what is not UTF-8 is U+FFFD, and special tokens have no bytes."""
        return _decode(self.join(token_ids))

    def join(self, token_ids: Iterable[int]) -> bytes:
        """Return the bytes of the ids; special tokens have none."""
        return b"".join([self._bytes[i] for i in token_ids])

    def offsets(self, text: str) -> list[int]:
        """Return the place of the character that each token begins with, or in."""
        places, characters = [], 0
        for token_id in self.encode(text):
            token = self._bytes[token_id]
            places.append(characters - _continues(token[0]))
            characters += sum(not _continues(byte) for byte in token)
        return places

    def detokenizer(self, follows: str = "") -> Detokenizer:  # noqa: ARG002 - bytes join the same way anywhere
        """Return a detokenizer, which holds the bytes of a character that is not whole."""
        return byte_detokenizer(self)

    def backward_detokenizer(self, precedes: str = "") -> Detokenizer:  # noqa: ARG002 - as above
        """Return a backward detokenizer, which holds the bytes that a character before them may begin with."""
        return backward_byte_detokenizer(self)

    def label(self, token_id: int) -> str:
        r"""Return a token's text, or its name, or `bytes:\xe2\x82` where it is not whole characters."""
        return byte_label(self._bytes[token_id], self.tokens[token_id])

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        return self._json(self._model(), None, PRE_TOKENIZER, _AS_BYTES)

    def _model(self) -> dict[str, Any]:
        return byte_pairs(self._ids, self.merges, None)

    def _require_sound(self) -> None:
        held = self._text_ids
        missing = [character for character in BYTES if character not in held]
        if missing:
            raise TokenizerError(f"a vocabulary of subwords needs all 256 bytes, and {missing[0]!r} is missing")
        for token in held:
            if not token or not BYTES.keys() >= set(token):
                raise TokenizerError(f"token {token!r} is not written in GPT-2's alphabet of bytes")
        for left, right in self.merges:
            if not held.keys() >= {left, right, left + right}:
                raise TokenizerError(f"merge {left!r} {right!r}: both, and both together, must be in the vocabulary")


def _continues(byte: int) -> bool:
    """Say whether a byte of UTF-8 goes on with a character."""
    return byte & 0xC0 == 0x80


def byte_label(token: bytes, name: str) -> str:
    r"""Return a token's text, or its name if it has none, or `bytes:\xe2\x82` where it is not whole characters."""
    try:
        return token.decode() or name
    except UnicodeDecodeError:
        return "bytes:" + "".join(chr(b) if b in _PRINTABLE else f"\\x{b:02x}" for b in token)


class _ByteVocabulary(Protocol):
    def join(self, token_ids: Iterable[int]) -> bytes: ...

    def label(self, token_id: int) -> str: ...


def byte_detokenizer(vocabulary: _ByteVocabulary) -> Detokenizer:
    """Return a detokenizer for tokens that are bytes."""
    return _ByteDetokenizer(vocabulary)


def backward_byte_detokenizer(vocabulary: _ByteVocabulary) -> Detokenizer:
    """Return a backward detokenizer for tokens that are bytes."""
    return _BackwardByteDetokenizer(vocabulary)


class _ByteDetokenizer:
    """Holds the bytes of a character that is not whole."""

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
        held, token = self._decoder.getstate()[0], self._tokenizer.join((token_id,))
        # What is held is one U+FFFD before the token, unless the token's first byte goes on with it.
        places = (len(_decode(held + token[:1])) - 1,) if held else AT_THE_EDGE
        return self._decoder.decode(token), places

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return self._decoder.getstate()[0].hex()

    def restore(self, saved: Any) -> None:
        self._decoder.setstate((bytes.fromhex(saved), 0))


class _BackwardByteDetokenizer:
    """Holds what a text so far begins with as long as a byte before it may change it.

    That is up to three continuation bytes: a fourth belongs to no character, whatever comes before.
    """

    def __init__(self, tokenizer: _ByteVocabulary) -> None:
        self._tokenizer = tokenizer
        self._held = b""
        # Of each tracked token whose place is not certain: bytes from its first one to the last that is held.
        self._unplaced: list[int] = []

    def feed(self, token_ids: Iterable[int]) -> str:
        return _decode(self._take(self._tokenizer.join([*token_ids][::-1])))

    def flush(self) -> str:
        held, self._held = self._held, b""
        return _decode(held)

    def track(self, token_id: int | None) -> tuple[str, Sequence[int]]:
        if token_id is None:
            certain, self._held = self._held, b""
        else:
            token = self._tokenizer.join((token_id,))
            self._unplaced.append(len(token) + len(self._held))
            certain = self._take(token)
        text, count = _decode(certain), len(certain)
        placed = [_characters_from(certain, text, distance) for distance in self._unplaced if distance <= count]
        self._unplaced = [distance - count for distance in self._unplaced if distance > count]
        return text, placed

    def label(self, token_id: int) -> str:
        return self._tokenizer.label(token_id)

    def save(self) -> Any:
        return self._held.hex()

    def restore(self, saved: Any) -> None:
        self._held = bytes.fromhex(saved)

    def _take(self, content: bytes) -> bytes:
        """Put bytes before those held, and return what is certain of them together."""
        content += self._held
        head = content[:_MAX_CONTINUATIONS]
        num_held = len(head) - len(head.lstrip(_CONTINUATIONS))
        self._held = content[:num_held]
        return content[num_held:]


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _characters_from(content: bytes, text: str, distance: int) -> int:
    """Return how many characters of a text there are from the one that holds a byte on, `distance` from its end."""
    if not distance:
        return 0
    return len(text) + 1 - len(_decode(content[: len(content) - distance + 1]))
