"""Subword tokenizer by byte-level BPE: it encodes any text, and decoding restores the text.

The pre-tokenizer splits text into
words, numbers and runs of symbols, each with one leading space; no token crosses a split. Unlike GPT-2's, it keeps
combining marks with their letters (otherwise Devanagari, Thai or vocalized Hebrew fall apart), and the part after an
apostrophe with its word.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Self

from contract.errors import TokenizerError
from contract.tokenizers.base import END, PADDING, START, UNKNOWN
from contract.tokenizers.byte_level import BYTES, CONTINUATIONS, ByteTexts
from contract.tokenizers.huggingface import WHITE_SPACE, BytePairVocabulary, learn_merges, split_by

DEFAULT_VOCAB_SIZE = 2000
_WORD = r"[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*"
_SPLIT = split_by(rf" ?{_WORD}| ?\p{{N}}+| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+|{WHITE_SPACE}")
_AS_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
PRE_TOKENIZER = {"type": "Sequence", "pretokenizers": [_SPLIT, _AS_BYTES]}
# Merges are learned from words of at most 128 characters: the library scans the whole word for each merge. 2 million
# letters without a space took 106 s, and 15 s when split like this.
_LEARNT_FROM = {"type": "Sequence", "pretokenizers": [_SPLIT, split_by(r"[\s\S]{128}"), _AS_BYTES]}
_NUM_SPECIAL = 3


class SubwordTokenizer(BytePairVocabulary, ByteTexts):
    """A byte-level BPE tokenizer. Ids: padding, unknown (never used), start or end token, 256 bytes, merges."""

    unit = "subword"
    pre_tokenizer = PRE_TOKENIZER
    decoder = _AS_BYTES
    has_unknown = False

    def __init__(self, tokens: Sequence[str], merges: Iterable[Sequence[str]], labels: Collection[str] = ()) -> None:
        """Index a vocabulary in GPT-2's alphabet; see `BytePairVocabulary`."""
        super().__init__(tokens, merges, labels)
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

    def offsets(self, text: str) -> list[int]:
        """Return the offset of the character that contains each token's first byte."""
        offsets, num_characters = [], 0
        for token_id in self.encode(text):
            token = self._bytes[token_id]
            offsets.append(num_characters - (token[0] in CONTINUATIONS))
            num_characters += sum(byte not in CONTINUATIONS for byte in token)
        return offsets

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
