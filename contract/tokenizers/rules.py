"""Word splitting by the options of Keras's legacy `Tokenizer`, and its Hugging Face `tokenizers` equivalent."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

# Keras's default `filters`: each of these characters separates words and is dropped.
# https://github.com/keras-team/keras/blob/v3.15.0/keras/src/legacy/preprocessing/text.py
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'

LOWERCASE = {"type": "Lowercase"}
_ESCAPES = {character: "\\" + character for character in string.punctuation} | {"\t": "\\t", "\n": "\\n"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class WordRules:
    """The options of `keras.preprocessing.text.text_to_word_sequence`.

    Attributes:
        filters: Characters that separate words and are dropped.
        lower: Whether to lower-case the text first.
        split: Separator that splits and joins words; at least one character.
    """

    filters: str = KERAS_FILTERS
    lower: bool = True
    split: str = " "

    def words(self, text: str) -> list[str]:
        """Return the words of a text, split as Keras does."""
        return [word for word in self._normalized(text).split(self.split) if word]

    def offsets(self, text: str) -> list[int]:
        """Return the offset of each word in `text`, in code points."""
        normalized, offsets, position = self._normalized(text), [], 0
        sources = range(len(text)) if len(normalized) == len(text) else self._sources(text)
        for word in normalized.split(self.split):
            if word:
                offsets.append(sources[position])
            position += len(word) + len(self.split)
        return offsets

    def needs_none_beside(self, text: str, *, backward: bool) -> bool:
        """Return whether a word can follow `text`, or precede it if `backward`, without a separator."""
        if self.split == " ":
            return not text or text[0 if backward else -1].isspace()
        return not text or (text.startswith(self.split) if backward else text.endswith(self.split))

    @property
    def normalizer(self) -> dict[str, Any]:
        """The Hugging Face normalizer that lower-cases and replaces `filters` by `split`."""
        steps: list[dict[str, Any]] = [LOWERCASE] if self.lower else []
        if self.filters:
            pattern = "".join(_ESCAPES.get(character, character) for character in self.filters)
            steps.append({"type": "Replace", "pattern": {"Regex": f"[{pattern}]"}, "content": self.split})
        return {"type": "Sequence", "normalizers": steps}

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """The Hugging Face pre-tokenizer that splits at `split`."""
        return {"type": "Split", "pattern": {"String": self.split}, "behavior": "Removed", "invert": False}

    @classmethod
    def read(cls, normalizer: Any, pre_tokenizer: Any) -> Self | None:
        """Return the rules with this normalizer and pre-tokenizer; None if there are none."""
        try:
            steps, split = normalizer["normalizers"], pre_tokenizer["pattern"]["String"]
            patterns = [step["pattern"]["Regex"] for step in steps if step["type"] == "Replace"]
        except (LookupError, TypeError):
            return None
        escapes = {"t": "\t", "n": "\n"}
        filters = _ESCAPED.sub(lambda match: escapes.get(match[1], match[1]), patterns[0][1:-1]) if patterns else ""
        rules = cls(filters, LOWERCASE in steps, split)
        matches = (rules.normalizer, rules.pre_tokenizer) == (normalizer, pre_tokenizer)
        return rules if matches and rules.split else None

    @cached_property
    def _table(self) -> dict[int, str]:
        return str.maketrans(dict.fromkeys(self.filters, self.split))

    def _normalized(self, text: str) -> str:
        return (text.lower() if self.lower else text).translate(self._table)

    def _sources(self, text: str) -> Sequence[int]:
        """Return the offset in `text` of each character of `_normalized(text)`.

        The normalized text can be longer: lower-casing may add characters, as for "İ", and so may `split`.
        """
        lowered, sources = text, list(range(len(text)))
        if self.lower:
            lowered = text.lower()
            sources = lowered_sources(text)
        table = self._table
        pairs = zip(sources, lowered, strict=True)
        return [source for source, character in pairs for _ in table.get(ord(character), character)]


KERAS_RULES = WordRules()


def lowered_sources(text: str) -> list[int]:
    """Return the offset in `text` of each character of `text.lower()`."""
    return [offset for offset, character in enumerate(text) for _ in character.lower()]
