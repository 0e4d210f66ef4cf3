"""Lossless word tokenizer, and the vocabulary that it shares with that of regular expressions.

It preserves case, punctuation and white space, so decoding restores the text. A token is a run of letters and digits
with their combining marks, or a single other character. It includes one leading space, as in GPT-2: sequences are about
half as long as with separate space tokens, and some words are in the vocabulary twice. Other white space has tokens of
its own.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate
from typing import Any, ClassVar, Self

from contract.errors import TokenizerError
from contract.tokenizers.base import END, PADDING, START, UNKNOWN, JoinedTexts
from contract.tokenizers.huggingface import WHITE_SPACE, BytePairVocabulary, count_words, split_by, without_surrogates

# Words that occur once are spelled in characters: the model learns to spell, and the vocabulary is about half as large.
MIN_FREQUENCY = 2
PRE_TOKENIZER = split_by(rf" ?[\p{{L}}\p{{M}}\p{{N}}]+| ?[^\s\p{{L}}\p{{M}}\p{{N}}]|{WHITE_SPACE}")
_NUM_SPECIAL = 3


class SpelledVocabulary(BytePairVocabulary, JoinedTexts):
    """A vocabulary of words, in which a word outside it is spelled in characters.

    To the library it is BPE without merges: a word in the vocabulary is one token, any other one per character. The
    vocabulary has every character of the training text, so only unseen characters are unknown. Word ids start at 2,
    by descending frequency. Then come the characters that are not words themselves, and the start or end token.
    """

    decoder: ClassVar = {"type": "Fuse"}
    has_unknown = True

    @cached_property
    def max_token_characters(self) -> int | None:
        return max(map(len, self._text_ids), default=1)

    def offsets(self, text: str) -> list[int]:
        ids = self.encode(text)
        # An unknown token is one character.
        return list(accumulate((len(self._texts[i]) or 1 for i in ids[:-1]), initial=0)) if ids else []

    def _new_characters(self, texts: Iterable[str]) -> set[str]:
        characters = set[str]()
        for text in texts:
            characters.update(without_surrogates(text))
        return characters - self._ids.keys()

    def _validate(self) -> None:
        if self.merges:
            raise TokenizerError(f"exact words have no merges, got {len(self.merges)}")


class ExactWordTokenizer(SpelledVocabulary):
    """A tokenizer of words, punctuation and white space."""

    unit = "exact_word"
    pre_tokenizer = PRE_TOKENIZER

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        num_words: int | None = None,
        vocab_size: int | None = None,
        end_token: bool = False,
    ) -> Self:
        """Build a vocabulary of the most frequent words; see `learn_words`."""
        return cls(learn_words(texts, PRE_TOKENIZER, num_words, vocab_size, end_token=end_token))


def learn_words(
    texts: Iterable[str], pre_tokenizer: Any, num_words: int | None, vocab_size: int | None, *, end_token: bool
) -> list[str]:
    """Return the tokens by id: the most frequent words of the training texts, without the validation split, and more.

    Args:
        texts: The training texts.
        pre_tokenizer: Splits them into words.
        num_words: Keep words with ids below this one, as `WordTokenizer` does; None keeps all that occur at least
            `MIN_FREQUENCY` times.
        vocab_size: Maximum number of tokens, special tokens and characters included.
        end_token: Whether each document ends with the end token, which can be sampled.

    Raises:
        TokenizerError: `num_words` leaves no word, or `vocab_size` no room for the characters.
    """
    if num_words is not None and num_words < 3:
        raise TokenizerError(f"num_words must be at least 3 (ids 0 and 1 are special), got {num_words}")
    characters = set[str]()
    counted = count_words(_collect(texts, characters), pre_tokenizer, MIN_FREQUENCY)
    # The match of a regular expression may be the name of a special token; it is spelled.
    words = [word for word in counted if word not in (PADDING, UNKNOWN, START, END)]
    if num_words is not None:
        words = words[: num_words - 2]
    if vocab_size is not None:
        words = _fit(words, vocab_size, len(characters))
    spelling = sorted(characters - set(words))
    return [PADDING, UNKNOWN, *words, *spelling, END if end_token else START]


def _collect(texts: Iterable[str], characters: set[str]) -> Iterator[str]:
    """Yield the texts and add their characters to a set, in one pass: the texts may be a large one-shot iterable."""
    for text in map(without_surrogates, texts):
        characters.update(text)
        yield text


def _fit(words: list[str], vocab_size: int, num_characters: int) -> list[str]:
    """Return the most frequent words that fit into the vocabulary beside all characters."""
    least = _NUM_SPECIAL + num_characters
    if vocab_size < least:
        raise TokenizerError(f"vocab_size must be at least {least} (characters and special tokens), got {vocab_size}")
    # Words of one character add nothing: the characters are already counted.
    sizes = accumulate(len(word) > 1 for word in words)
    return [word for word, size in zip(words, sizes, strict=True) if least + size <= vocab_size]
