"""Word tokenizer with the rules of Keras's legacy `Tokenizer`, by default lower case, or of its layer.

Implemented here, not with Hugging Face's library: Keras lower-cases by context ("ΟΔΟΣ" becomes "οδος"), the library
does not.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Self

from contract.errors import TokenizerError
from contract.tokenizers.base import END, PADDING, START, Detokenizer, LookupVocabulary
from contract.tokenizers.rules import KERAS_RULES, WhitespaceRules, WordRules

UNKNOWN_WORD = "<OOV>"


class WordTokenizer(LookupVocabulary):
    """A word tokenizer with the rules of Keras's legacy `Tokenizer`, or, if imported, of its `TextVectorization`.

    `train` assigns word ids from 2 by descending frequency, then by first occurrence; 0 is padding and 1 is the unknown
    word. The start or end token follows the last word, so every word has the id that Keras gives it.
    """

    unit = "word"

    def __init__(
        self,
        tokens: Sequence[str],
        rules: WordRules | WhitespaceRules = KERAS_RULES,
        unknown: str | None = UNKNOWN_WORD,
        labels: Collection[str] = (),
    ) -> None:
        """Index a vocabulary, padding first; words outside it are the unknown token, or dropped; see `Vocabulary`."""
        self.rules, self.unknown = rules, unknown
        super().__init__(tokens, labels)

    @classmethod
    def train(cls, texts: Iterable[str], *, num_words: int | None = None, end_token: bool = False) -> Self:
        """Build a vocabulary of the most frequent words in the training texts, without the validation split.

        It keeps ids below `num_words`, as Keras does; None keeps every word. With an end token, which can be sampled,
        each document ends with it.

        Raises:
            TokenizerError: `num_words` leaves no word.
        """
        if num_words is not None and num_words < 3:
            raise TokenizerError(f"num_words must be at least 3 (ids 0 and 1 are special), got {num_words}")
        counts = Counter(word for text in texts for word in KERAS_RULES.words(text))
        words = [word for word, _ in counts.most_common()]
        kept = words if num_words is None else words[: num_words - 2]
        return cls([PADDING, UNKNOWN_WORD, *kept, END if end_token else START])

    @property
    def word_index(self) -> dict[str, int]:
        """Id of each word and of the unknown word, as in Keras's `word_index`; without other special tokens."""
        unknown = {} if self.unknown is None else {self.unknown: self.special.unknown}
        return {**unknown, **self._text_ids}

    @property
    def changes_text(self) -> bool:
        return True

    def encoding_bytes(self, num_bytes: int) -> int:
        # 47 bytes per byte were measured for words of one character, each an object.
        return 48 * num_bytes

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the words joined by the separator, a space by default; special tokens have no text."""
        return self.rules.split.join([self._texts[i] for i in token_ids if self._texts[i]])

    def token_bytes(self, *, first: bool, backward: bool = False) -> tuple[bytes, ...] | None:
        before, after = ("", self.rules.split) if backward else (self.rules.split, "")
        texts = self._texts if first else [text and before + text + after for text in self._texts]
        return tuple(text.encode("utf-8", "surrogatepass") for text in texts)

    def detokenizer(self, beside: str = "", *, backward: bool = False) -> Detokenizer:
        is_separated = self.rules.needs_none_beside(beside, backward=backward)
        return _WordDetokenizer(self, backward=backward, is_separated=is_separated)

    def _with_tokens(self, tokens: Sequence[str], labels: Collection[str]) -> Self:
        return type(self)(tokens, self.rules, self.unknown, labels)

    def to_json(self) -> str:
        return self._json(self._word_level(), self.rules.normalizer, self.rules.pre_tokenizer, None)

    def _parts(self, text: str) -> list[str]:
        return self.rules.words(text)

    def _part_offsets(self, text: str) -> list[int]:
        return self.rules.offsets(text)


class _WordDetokenizer(Detokenizer):
    def __init__(self, tokenizer: WordTokenizer, *, backward: bool, is_separated: bool) -> None:
        self._tokenizer, self.backward = tokenizer, backward
        # Whether the next word needs no separator.
        self._is_separated = is_separated

    def feed(self, token_ids: Iterable[int]) -> str:
        text = self._tokenizer.decode([*token_ids][::-1] if self.backward else token_ids)
        if not text:
            return ""
        delta = self._separate(text)
        self._is_separated = False
        return delta

    def label(self, token_id: int) -> str:
        word = self._tokenizer.decode([token_id])
        return self._separate(word) if word else self._tokenizer.tokens[token_id]

    def save(self) -> Any:
        return self._is_separated

    def restore(self, saved: Any) -> None:
        self._is_separated = saved

    def _separate(self, text: str) -> str:
        split = "" if self._is_separated else self._tokenizer.rules.split
        return text + split if self.backward else split + text
