"""Words by the rules of Keras's legacy `Tokenizer`: lower case, without punctuation.

Read directly, not by the library that names the file's format: Keras lower-cases by context ("ΟΔΟΣ" becomes "οδος"),
which the library does not.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from contract.errors import TokenizerError
from contract.tokenizers.vocabulary import END, PADDING, START, Detokenizer, Vocabulary

UNKNOWN_WORD = "<OOV>"

# Keras's default `filters`: each of these parts words and is dropped.
# https://github.com/keras-team/keras/blob/v3.15.0/keras/src/legacy/preprocessing/text.py
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
_KERAS_TRANSLATION = str.maketrans(KERAS_FILTERS, " " * len(KERAS_FILTERS))
_KERAS_WORD = re.compile(f"[^ {re.escape(KERAS_FILTERS)}]+")


def keras_words(text: str) -> list[str]:
    """Split a text as `keras.preprocessing.text.text_to_word_sequence` does: lower case, `KERAS_FILTERS` part words."""
    return [word for word in text.lower().translate(_KERAS_TRANSLATION).split(" ") if word]


class WordTokenizer(Vocabulary):
    """Words by the rules of Keras's legacy `Tokenizer(oov_token="<OOV>")`.

    Ids run from 2 by falling frequency, then by first appearance; 0 is padding and 1 any word that is not held. The
    start or end mark follows the last word, so every word keeps the id that Keras gives it.
    """

    unit = "word"
    unknown = UNKNOWN_WORD

    @classmethod
    def train(cls, texts: Iterable[str], *, num_words: int | None = None, end_mark: bool = False) -> Self:
        """Count the words of some texts.

        Args:
            texts: The training texts; what is held out must not be among them.
            num_words: Keep ids below this one, as Keras does; None keeps every word.
            end_mark: Whether documents end, and their end can be drawn.

        Raises:
            TokenizerError: `num_words` leaves no word.
        """
        if num_words is not None and num_words < 3:
            raise TokenizerError(f"num_words must be at least 3 (ids 0 and 1 are special), got {num_words}")
        counts = Counter(word for text in texts for word in keras_words(text))
        words = [word for word, _ in counts.most_common()]
        kept = words if num_words is None else words[: num_words - 2]
        return cls([PADDING, UNKNOWN_WORD, *kept, END if end_mark else START])

    @property
    def word_index(self) -> dict[str, int]:
        """Id of each word, and of `<OOV>`, as Keras's attribute of the same name."""
        return {UNKNOWN_WORD: self.special.unknown, **self._text_ids}

    def encode(self, text: str) -> list[int]:
        """Return one id per word; one that the vocabulary does not hold is 1."""
        look_up, unknown = self._text_ids.get, self.special.unknown
        return [look_up(word, unknown) for word in keras_words(text)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Return the words joined by spaces; special tokens have none."""
        return " ".join(self._held(token_ids))

    def offsets(self, text: str) -> list[int]:
        """Return the place in `text` at which each word begins.

        Found in the text as it is given: lower-casing, which can change its length, neither makes nor removes a place
        at which words part.
        """
        return [match.start() for match in _KERAS_WORD.finditer(text)]

    def detokenizer(self, follows: str = "") -> Detokenizer:
        """Return a detokenizer whose first word is set off from `follows` by one space where it needs one."""
        return _WordDetokenizer(self, begins_text=not follows or follows[-1].isspace())

    def to_json(self) -> str:
        """Return the file's text, in Hugging Face `tokenizers` format."""
        escaped = "".join(f"\\{character}" for character in KERAS_FILTERS if character not in "\t\n")
        filters = {"type": "Replace", "pattern": {"Regex": f"[{escaped}\\t\\n]"}, "content": " "}
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, filters]}
        spaces = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
        return self._json(self._word_level(), normalizer, spaces, None)

    def _held(self, token_ids: Iterable[int]) -> Iterator[str]:
        return (self._texts[i] for i in token_ids if self._texts[i])


@dataclass
class _WordDetokenizer:
    tokenizer: WordTokenizer
    begins_text: bool

    def feed(self, token_ids: Iterable[int]) -> str:
        text = self.tokenizer.decode(token_ids)
        if not text:
            return ""
        piece = text if self.begins_text else " " + text
        self.begins_text = False
        return piece

    def flush(self) -> str:
        return ""

    def label(self, token_id: int) -> str:
        word = self.tokenizer.decode([token_id])
        return (word if self.begins_text else " " + word) if word else self.tokenizer.tokens[token_id]
