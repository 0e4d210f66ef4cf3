"""How a text is cut into words: the options of Keras's legacy `Tokenizer`, in code and in the file's format."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

# Keras's default `filters`: each of these parts words and is dropped.
# https://github.com/keras-team/keras/blob/v3.15.0/keras/src/legacy/preprocessing/text.py
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'

LOWERCASE = {"type": "Lowercase"}
_ESCAPES = {character: "\\" + character for character in string.punctuation} | {"\t": "\\t", "\n": "\\n"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True)
class WordRules:
    """What `keras.preprocessing.text.text_to_word_sequence` takes beside a text.

    Attributes:
        filters: Characters that part words and are dropped.
        lower: Whether the text is in lower case first.
        split: What parts words, and joins them; at least one character.
    """

    filters: str = KERAS_FILTERS
    lower: bool = True
    split: str = " "

    def words(self, text: str) -> list[str]:
        """Return the words of a text, as Keras has them."""
        return [word for word in self._parted(text).split(self.split) if word]

    def places(self, text: str) -> list[int]:
        """Return the place in `text` at which each word begins, in code points."""
        parted, places, place = self._parted(text), [], 0
        sources = range(len(text)) if len(parted) == len(text) else self._sources(text)
        for word in parted.split(self.split):
            if word:
                places.append(sources[place])
            place += len(word) + len(self.split)
        return places

    def needs_none_after(self, text: str) -> bool:
        """Say whether a word goes on a text without `split` between the two."""
        return not text or (text[-1].isspace() if self.split == " " else text.endswith(self.split))

    def needs_none_before(self, text: str) -> bool:
        """Say whether a word leads up to a text without `split` between the two."""
        return not text or (text[0].isspace() if self.split == " " else text.startswith(self.split))

    @property
    def normalizer(self) -> dict[str, Any]:
        """How Hugging Face's library makes a text ready to be split."""
        steps: list[dict[str, Any]] = [LOWERCASE] if self.lower else []
        if self.filters:
            pattern = "".join(_ESCAPES.get(character, character) for character in self.filters)
            steps.append({"type": "Replace", "pattern": {"Regex": f"[{pattern}]"}, "content": self.split})
        return {"type": "Sequence", "normalizers": steps}

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        """How Hugging Face's library splits it."""
        return {"type": "Split", "pattern": {"String": self.split}, "behavior": "Removed", "invert": False}

    @classmethod
    def read(cls, normalizer: Any, pre_tokenizer: Any) -> Self | None:
        """Return the rules that have this normalizer and this pre-tokenizer; None if none have."""
        try:
            steps, split = normalizer["normalizers"], pre_tokenizer["pattern"]["String"]
            patterns = [step["pattern"]["Regex"] for step in steps if step["type"] == "Replace"]
        except (LookupError, TypeError):
            return None
        filters = _ESCAPED.sub(_unescape, patterns[0][1:-1]) if patterns else ""
        rules = cls(filters, LOWERCASE in steps, split)
        found = (rules.normalizer, rules.pre_tokenizer) == (normalizer, pre_tokenizer)
        return rules if found and rules.split else None

    @cached_property
    def _table(self) -> dict[int, str]:
        return str.maketrans(dict.fromkeys(self.filters, self.split))

    def _parted(self, text: str) -> str:
        return (text.lower() if self.lower else text).translate(self._table)

    def _sources(self, text: str) -> Sequence[int]:
        """Return the place in `text` of each character of `_parted(text)`.

        Lower case can be longer, as that of "İ" is, and `split` can be.
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
    """Return the place in `text` of each character of `text.lower()`."""
    return [place for place, character in enumerate(text) for _ in character.lower()]


def _unescape(match: re.Match[str]) -> str:
    return {"t": "\t", "n": "\n"}.get(match[1], match[1])
