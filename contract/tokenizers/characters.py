"""Character tokenizer: one token per Unicode code point.

Implemented here, not with Hugging Face's library: a dictionary lookup per character encodes 1.1 million characters in
20 ms where the library takes 900.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from contract.tokenizers.rules import LOWERCASE, Standardization, lowered_sources
from contract.tokenizers.vocabulary import END, PADDING, START, UNKNOWN, JoinedVocabulary

EVERY_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_AS_IT_IS = Standardization()


class CharacterTokenizer(JoinedVocabulary):
    """A tokenizer with one token per Unicode code point. `train` orders the tokens by code point."""

    unit = "character"
    needs_padding = False

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        unknown: str | None = UNKNOWN,
        lower: bool = False,
        standardization: Standardization = _AS_IT_IS,
    ) -> None:
        """Index a vocabulary.

        Args:
            tokens: Token of each id, padding first.
            unknown: Token for characters outside the vocabulary; None drops them.
            lower: Whether to lower-case text before encoding, as Keras's legacy `Tokenizer(char_level=True)` does.
            standardization: What Keras's `TextVectorization` does to text before encoding; excludes `lower`.

        Raises:
            TokenizerError: duplicate token, or a special token is missing.
        """
        self.unknown, self.lower, self.standardization = unknown, lower, standardization
        super().__init__(tokens)

    @classmethod
    def train(cls, texts: Iterable[str], *, end_token: bool = False) -> Self:
        """Build a vocabulary of all characters in the training texts, or a single one, without the validation split.

        With an end token, which can be sampled, each document ends with it.
        """
        characters = set[str]()
        for text in [texts] if isinstance(texts, str) else texts:
            characters.update(text)
        return cls([PADDING, UNKNOWN, END if end_token else START, *sorted(characters)])

    @property
    def max_token_characters(self) -> int | None:
        """1; None if unknown characters or punctuation are dropped."""
        return None if self.unknown is None or self.standardization.strip_punctuation else 1

    def encoding_bytes(self, num_bytes: int) -> int:
        """See `Tokenizer`: 8 bytes for the list entry of the id, and 4 for the lower-cased text."""
        return 12 * num_bytes

    def encode(self, text: str) -> list[int]:
        """Return one id per character; unknown ones become `special.unknown`, or are dropped without such a token."""
        ids, unknown = self._text_ids, self.special.unknown
        characters = self._normalized(text)
        if self.unknown is None:
            return [ids[character] for character in characters if character in ids]
        return [ids.get(character, unknown) for character in characters]

    def offsets(self, text: str) -> list[int]:
        """Return the offset of each character; characters that lower-casing adds share the offset of their source."""
        offsets = lowered_sources(text) if self.lower else list(self.standardization.sources(text))
        if self.unknown is None:
            pairs = zip(offsets, self._normalized(text), strict=True)
            return [offset for offset, character in pairs if character in self._text_ids]
        return offsets

    def to_json(self) -> str:
        """Serialize to JSON in Hugging Face `tokenizers` format."""
        normalizer = LOWERCASE if self.lower else self.standardization.normalizer
        return self._json(self._word_level(), normalizer, EVERY_CHARACTER, {"type": "Fuse"})

    def _key(self) -> tuple[Any, ...]:
        return (*super()._key(), self.lower, self.standardization)

    def _normalized(self, text: str) -> str:
        return text.lower() if self.lower else self.standardization.apply(text)
