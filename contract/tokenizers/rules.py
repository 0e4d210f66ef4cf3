"""Rules of Keras for standardizing and splitting text, and their equivalents in Hugging Face's `tokenizers` format."""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from contract.tokenizers.huggingface import split_by

# Keras's default `filters`: each of these characters separates words and is dropped.
# https://github.com/keras-team/keras/blob/v3.15.0/keras/src/legacy/preprocessing/text.py
KERAS_FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'

LOWERCASE = {"type": "Lowercase"}
# What TensorFlow's `tf.strings.split` splits at; Python's `str.split` also splits at Unicode's white space.
_WHITE_SPACE = " \t\n\v\f\r"
_ESCAPES = {character: "\\" + character for character in string.punctuation} | {"\t": "\\t", "\n": "\\n"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_WORD = re.compile(f"[^{_WHITE_SPACE}]+")


@dataclass(frozen=True)
class Standardization:
    """The option `standardize` of Keras's `TextVectorization`. Characters outside ASCII are left as they are.

    Attributes:
        lower: Whether to lower-case the letters A to Z.
        strip_punctuation: Whether to delete ASCII punctuation.
    """

    lower: bool = False
    strip_punctuation: bool = False

    def apply(self, text: str) -> str:
        return text.translate(self._table) if self._table else text

    @property
    def normalizer(self) -> dict[str, Any] | None:
        """The Hugging Face normalizer that does the same; None if there is nothing to do."""
        steps = [_replace({"String": upper}, lower) for upper, lower in self._lowered]
        if self.strip_punctuation:
            escaped = "".join(map(_ESCAPES.__getitem__, string.punctuation))
            steps.append(_replace({"Regex": f"[{escaped}]"}, ""))
        return {"type": "Sequence", "normalizers": steps} if steps else None

    @classmethod
    def read(cls, normalizer: Any) -> Self | None:
        """Return the standardization with this normalizer; None if there is none."""
        options = [cls(lower, strip) for lower in (False, True) for strip in (False, True)]
        return next((each for each in options if each.normalizer == normalizer), None)

    @property
    def _lowered(self) -> list[tuple[str, str]]:
        return list(zip(string.ascii_uppercase, string.ascii_lowercase, strict=True)) if self.lower else []

    @cached_property
    def _table(self) -> dict[int, str | None]:
        lowered: dict[int, str | None] = {ord(upper): lower for upper, lower in self._lowered}
        return lowered | (dict.fromkeys(map(ord, string.punctuation)) if self.strip_punctuation else {})


def sources(text: str, normalize: Callable[[str], str]) -> list[int]:
    """Return the offset in `text` of each character of `normalize(text)`, which treats characters one by one.

    The normalized text can be shorter, or longer: lower-casing "İ" adds a character. Lower-casing by context, as of a
    final sigma, keeps the length.
    """
    return [offset for offset, character in enumerate(text) for _ in normalize(character)]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@dataclass(frozen=True)
class WhitespaceRules:
    """Words of Keras's `TextVectorization` with `split="whitespace"`, its default."""

    standardization: Standardization = Standardization()

    # Joins words.
    split: ClassVar[str] = " "
    pre_tokenizer: ClassVar[dict[str, Any]] = split_by("[ \\t\\n\\x0b\\x0c\\r]+", "Removed")

    def words(self, text: str) -> list[str]:
        return [match[0] for match in _WORD.finditer(self.standardization.apply(text))]

    def offsets(self, text: str) -> list[int]:
        """Return the offset of each word in `text`, in code points."""
        offsets = sources(text, self.standardization.apply)
        return [offsets[match.start()] for match in _WORD.finditer(self.standardization.apply(text))]

    def needs_none_beside(self, text: str, *, backward: bool) -> bool:
        """Return whether a word can follow `text`, or precede it if `backward`, without a separator."""
        return not text or text[0 if backward else -1] in _WHITE_SPACE

    @property
    def normalizer(self) -> dict[str, Any] | None:
        """The Hugging Face normalizer that standardizes; None if there is nothing to do."""
        return self.standardization.normalizer

    @classmethod
    def read(cls, normalizer: Any, pre_tokenizer: Any) -> Self | None:
        """Return the rules with this normalizer and pre-tokenizer; None if there are none."""
        standardization = Standardization.read(normalizer)
        return cls(standardization) if standardization and pre_tokenizer == cls.pre_tokenizer else None


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
        return [word for word in self._normalized(text).split(self.split) if word]

    def offsets(self, text: str) -> list[int]:
        """Return the offset of each word in `text`, in code points."""
        of_characters, offsets, position = sources(text, self._normalized), [], 0
        for word in self._normalized(text).split(self.split):
            if word:
                offsets.append(of_characters[position])
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
            steps.append(_replace({"Regex": f"[{pattern}]"}, self.split))
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


KERAS_RULES = WordRules()
