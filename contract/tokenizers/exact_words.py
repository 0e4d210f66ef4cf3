"""Words as they are written, with case, punctuation and white space: decoding gives the text back.

A token is a run of letters and digits with their combining marks, or one other character. A single space before it
belongs to it, as in GPT-2: a sequence is about half as long as with spaces as tokens, for a vocabulary that has some
words twice. Other white space is tokens of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, Self

from contract.errors import TokenizerError
from contract.tokenizers.huggingface import (
    WHITE_SPACE,
    Engine,
    byte_pairs,
    count_words,
    encoding_bytes,
    split_by,
    without_surrogates,
)
from contract.tokenizers.vocabulary import END, PADDING, START, UNKNOWN, JoinedVocabulary

# Words that occur once are spelt: so the model learns to spell, and the vocabulary is about half as large.
MIN_FREQUENCY = 2
PRE_TOKENIZER = split_by(rf" ?[\p{{L}}\p{{M}}\p{{N}}]+| ?[^\s\p{{L}}\p{{M}}\p{{N}}]|{WHITE_SPACE}")
_NUM_SPECIAL = 3


class ExactWordTokenizer(JoinedVocabulary):
    """Words, punctuation and white space; what the vocabulary does not hold is spelt in characters.

    Every character of the training text is held, so nothing but an unseen character is unknown. Words have the ids
    from 2, by falling frequency; after them come the characters that are not among the words, and the start or end
    mark.
    """

    unit = "exact_word"
    unknown = UNKNOWN

    def __init__(self, tokens: Sequence[str]) -> None:
        """Index a vocabulary.

        Args:
            tokens: Token of each id, special ones included.

        Raises:
            TokenizerError: a token stands twice, or a special one is missing.
        """
        super().__init__(tokens)
        self._engine = Engine(self._model(), PRE_TOKENIZER)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        num_words: int | None = None,
        vocab_size: int | None = None,
        end_mark: bool = False,
    ) -> Self:
        """Count the words of some texts.

        Args:
            texts: The training texts; what is held out must not be among them.
            num_words: Keep the words whose ids are below this one, as with Keras's words; None keeps all that occur
                `MIN_FREQUENCY` times.
            vocab_size: Bound of all tokens together, as another way to say how many words are kept.
            end_mark: Whether documents end, and their end can be drawn.

        Raises:
            TokenizerError: `num_words` leaves no word, or `vocab_size` no room for the characters.
        """
        if num_words is not None and num_words < 3:
            raise TokenizerError(f"num_words must be at least 3 (ids 0 and 1 are special), got {num_words}")
        characters = set[str]()
        words = exact_words(_collect(texts, characters))
        if num_words is not None:
            words = words[: num_words - 2]
        if vocab_size is not None:
            words = _fit(words, vocab_size, len(characters))
        spelling = sorted(characters - set(words))
        return cls([PADDING, UNKNOWN, *words, *spelling, END if end_mark else START])

    @cached_property
    def max_token_characters(self) -> int | None:
        """The longest word's."""
        return max(map(len, self._text_ids), default=1)

    def encoding_bytes(self, num_bytes: int) -> int:
        """See `Tokenizer`."""
        return encoding_bytes(num_bytes)

    def encode(self, text: str) -> list[int]:
        """Return the ids of words, and of characters where a word is not held; `special.unknown` for unseen ones."""
        return self._engine.encode(text)

    def offsets(self, text: str) -> list[int]:
        """Return the place at which each token begins; an unknown one is one character."""
        ids = self.encode(text)
        return list(accumulate((len(self._texts[i]) or 1 for i in ids[:-1]), initial=0)) if ids else []

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        return self._json(self._model(), None, PRE_TOKENIZER, {"type": "Fuse"})

    def _model(self) -> dict[str, Any]:
        """Describe byte pair encoding without merges: a word that is held is itself, and any other is characters."""
        return byte_pairs(self._ids, [], UNKNOWN)


def exact_words(texts: Iterable[str]) -> list[str]:
    """Return the words that occur often enough to be held, by falling frequency, then by code points."""
    return count_words(texts, PRE_TOKENIZER, MIN_FREQUENCY)


def _collect(texts: Iterable[str], characters: set[str]) -> Iterator[str]:
    """Pass on texts, which may come once and be large together, and take up their characters."""
    for text in map(without_surrogates, texts):
        characters.update(text)
        yield text


def _fit(words: list[str], vocab_size: int, num_characters: int) -> list[str]:
    """Return as many of the most frequent words as leave room for every character."""
    least = _NUM_SPECIAL + num_characters
    if vocab_size < least:
        raise TokenizerError(f"vocab_size must be at least {least} (characters and special tokens), got {vocab_size}")
    # A word of one character takes no room: the characters are counted already.
    sizes = accumulate(len(word) > 1 for word in words)
    return [word for word, size in zip(words, sizes, strict=True) if least + size <= vocab_size]
