"""Character tokenizer: one token per Unicode code point.

Implemented here, not with Hugging Face's library: a dictionary lookup per character encodes 1.1 million characters in
20 ms where the library takes 900.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Self

from contract.tokenizers.base import END, PADDING, START, UNKNOWN, JoinedTexts, LookupVocabulary
from contract.tokenizers.huggingface import split_by
from contract.tokenizers.rules import LOWERCASE, Standardization, sources

EVERY_CHARACTER = split_by(r"[\s\S]")
_AS_IT_IS = Standardization()


class CharacterTokenizer(LookupVocabulary, JoinedTexts):
    """A tokenizer with one token per Unicode code point. `train` orders the tokens by code point."""

    unit = "character"

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        unknown: str | None = UNKNOWN,
        lower: bool = False,
        standardization: Standardization = _AS_IT_IS,
        labels: Collection[str] = (),
    ) -> None:
        """Index a vocabulary, padding first; see `Vocabulary`.

        Args:
            tokens: Token of each id.
            unknown: Token for characters outside the vocabulary; None drops them.
            lower: Whether to lower-case text before encoding, as Keras's legacy `Tokenizer(char_level=True)` does.
            standardization: What Keras's `TextVectorization` does to text before encoding; excludes `lower`.
            labels: Label tokens.
        """
        self.unknown, self.lower, self.standardization = unknown, lower, standardization
        super().__init__(tokens, labels)

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

    @property
    def changes_text(self) -> bool:
        return self.lower or self.standardization != _AS_IT_IS

    def encoding_bytes(self, num_bytes: int) -> int:
        # 8 bytes for the list entry of the id, and 4 for the lower-cased text.
        return 12 * num_bytes

    def _new_characters(self, texts: Iterable[str]) -> set[str]:
        characters = set[str]()
        for text in texts:
            characters.update(self._parts(text))
        return characters - self._ids.keys()

    def _with_tokens(self, tokens: Sequence[str], labels: Collection[str]) -> Self:
        unknown, lower, standardization = self.unknown, self.lower, self.standardization
        return type(self)(tokens, unknown=unknown, lower=lower, standardization=standardization, labels=labels)

    def to_json(self) -> str:
        normalizer = LOWERCASE if self.lower else self.standardization.normalizer
        return self._json(self._word_level(), normalizer, EVERY_CHARACTER, {"type": "Fuse"})

    def _parts(self, text: str) -> str:
        return text.lower() if self.lower else self.standardization.apply(text)

    def _part_offsets(self, text: str) -> list[int]:
        return sources(text, self._parts)
